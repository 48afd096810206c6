//! `<lora:name:weight>` and its like.

use super::is_word;
use crate::prompt::{PromptWarning, finite, is_space};

/// What kind of network a tag names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// `<lora:...>`
    Lora,
    /// `<lyco:...>`: LyCORIS. The web UI loads both alike.
    Lycoris,
    /// `<hypernet:...>`
    Hypernetwork,
}

/// A network that a prompt names.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkTag {
    /// What kind it is.
    pub kind: NetworkKind,
    /// Its name as it is typed: never a path to be trusted.
    pub name: String,
    /// Its strength in the text encoder: the first number, or `te=`. 1 where there is none; finite.
    pub text_encoder: f64,
    /// Its strength in the denoiser: the second number, or `unet=`. As in the text encoder where there is none;
    /// finite.
    pub unet: f64,
    /// The rank to which it is cut: the third number, or `dyn=`.
    pub rank: Option<u32>,
}

/// A prompt without its tags: everything like `<word:...>` goes, also what is not a network. In a negative prompt
/// tags are text.
pub(super) fn extract(
    text: &str,
    negative: bool,
    networks: &mut Vec<NetworkTag>,
    warnings: &mut Vec<PromptWarning>,
) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        let (before, tag) = rest.split_at(open);
        clean.push_str(before);
        let word = tag[1..].find(|c| !is_word(c)).map_or(tag.len(), |length| length + 1);
        let body = tag[word..].strip_prefix(':').filter(|body| word > 1 && !body.starts_with('>'));
        let Some(body) = body else {
            clean.push('<');
            rest = &tag[1..];
            continue;
        };
        let Some(length) = body.find('>') else {
            // No tag ends any more: what follows is text, and need not be searched again.
            rest = tag;
            break;
        };
        let whole = &tag[..word + 1 + length + 1];
        rest = &tag[whole.len()..];
        if negative {
            clean.push_str(whole);
            if kind(&tag[1..word]).is_some() {
                warnings.push(PromptWarning::TagInNegative { tag: whole.to_owned() });
            }
            continue;
        }
        match parse(&tag[1..word], &body[..length]) {
            Ok(network) => networks.push(network),
            Err(reason) => warnings.push(PromptWarning::Tag { tag: whole.to_owned(), reason }),
        }
    }
    clean.push_str(rest);
    clean
}

fn kind(word: &str) -> Option<NetworkKind> {
    match word {
        "lora" => Some(NetworkKind::Lora),
        "lyco" => Some(NetworkKind::Lycoris),
        "hypernet" => Some(NetworkKind::Hypernetwork),
        _ => None,
    }
}

fn parse(word: &str, arguments: &str) -> Result<NetworkTag, &'static str> {
    let kind = kind(word).ok_or("there is no such kind of network; known are lora, lyco and hypernet")?;
    let mut positional = Vec::new();
    let (mut te, mut unet, mut rank) = (None, None, None);
    for argument in arguments.split(':') {
        match argument.split_once('=') {
            Some((key, value)) if !value.contains('=') => match key {
                "te" => te = Some(value),
                "unet" => unet = Some(value),
                "dyn" => rank = Some(value),
                _ => (),
            },
            _ => positional.push(argument),
        }
    }
    let mut positional = positional.into_iter();
    let name = positional.next().unwrap_or_default();
    if name.is_empty() {
        return Err("it has no name");
    }
    let strength = |text: &str| finite(text.trim_matches(is_space)).ok_or("its strength is not a number");
    let [te, unet, rank] = [te, unet, rank].map(|named| {
        let place = positional.next();
        named.or(place)
    });
    let text_encoder = te.map_or(Ok(1.0), strength)?;
    let unet = unet.map_or(Ok(text_encoder), strength)?;
    let rank =
        rank.map(|rank| rank.trim_matches(is_space).parse().map_err(|_| "its rank is not a whole number"));
    Ok(NetworkTag { kind, name: name.to_owned(), text_encoder, unet, rank: rank.transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, negative: bool) -> (String, Vec<NetworkTag>, Vec<PromptWarning>) {
        let (mut networks, mut warnings) = (Vec::new(), Vec::new());
        let clean = extract(text, negative, &mut networks, &mut warnings);
        (clean, networks, warnings)
    }

    #[test]
    fn tags_are_taken_out() {
        let text = "1girl, <hypernet:agm:1.1> <lora:a b> <lora:x:0.5:0.8:16><lyco:y:unet=0.2:0.7>.";
        let (clean, networks, warnings) = read(text, false);
        assert_eq!(clean, "1girl,   .");
        assert!(warnings.is_empty(), "{warnings:?}");
        let got: Vec<_> =
            networks.iter().map(|n| (n.name.as_str(), n.text_encoder, n.unet, n.rank)).collect();
        assert_eq!(
            got,
            [
                ("agm", 1.1, 1.1, None),
                ("a b", 1.0, 1.0, None),
                ("x", 0.5, 0.8, Some(16)),
                ("y", 0.7, 0.2, None)
            ]
        );
        assert_eq!(networks[0].kind, NetworkKind::Hypernetwork);
        assert_eq!(networks[3].kind, NetworkKind::Lycoris);
    }

    #[test]
    fn what_is_no_tag_stays() {
        for text in ["a < b: c > d", "<lora>", "<lora:>", "<:x>", "<lora:x", "<<<", "<lo-ra:x>"] {
            assert_eq!(read(text, false), (text.to_owned(), vec![], vec![]), "{text}");
        }
        assert_eq!(read("<<lora:x>", false).0, "<");
        let (clean, networks, warnings) = read("bad <lora:x:1>", true);
        assert_eq!((clean.as_str(), networks.len(), warnings.len()), ("bad <lora:x:1>", 0, 1));
    }

    #[test]
    fn unusable_tags_are_left_out_with_a_warning() {
        let text = "<lora:../x:nan><lora:x:y><lora::1><extrasupernet:m:1><lora:x:1:1:z><lora:x:1e999>";
        let (clean, networks, warnings) = read(text, false);
        assert_eq!((clean.as_str(), networks.len(), warnings.len()), ("", 0, 6), "{warnings:?}");
    }
}
