//! kitty's graphics protocol: <https://sw.kovidgoyal.net/kitty/graphics-protocol/>.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// Most bytes of text in one command.
const CHUNK: usize = 4096;

/// Shows a PNG file over so many rows, from the cursor on, which stays where it is. A picture of the same
/// number goes.
pub fn draw(png: &[u8], rows: usize, number: Option<u32>) -> Vec<u8> {
    let text = BASE64_STANDARD.encode(png);
    let chunks: Vec<&[u8]> = text.as_bytes().chunks(CHUNK).collect();
    let mut out = Vec::with_capacity(text.len() + 64);
    for (i, chunk) in chunks.iter().enumerate() {
        // a=T: transmit and show. f=100: PNG. q=2: no answers. C=1: the cursor stays. m=1: more follows.
        let number = number.map_or(String::new(), |number| format!("i={number},"));
        let first = format!("a=T,f=100,q=2,C=1,{number}r={rows},");
        let more = u8::from(i + 1 < chunks.len());
        out.extend(format!("\x1b_G{}m={more};", if i == 0 { first.as_str() } else { "" }).bytes());
        out.extend_from_slice(chunk);
        out.extend(b"\x1b\\");
    }
    out
}

/// Takes the picture of a number away, and its memory.
pub fn remove(number: u32) -> Vec<u8> {
    format!("\x1b_Ga=d,d=I,q=2,i={number}\x1b\\").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_one_command_or_several() {
        assert_eq!(draw(b"png", 7, Some(3)), b"\x1b_Ga=T,f=100,q=2,C=1,i=3,r=7,m=0;cG5n\x1b\\");
        assert_eq!(draw(b"png", 7, None), b"\x1b_Ga=T,f=100,q=2,C=1,r=7,m=0;cG5n\x1b\\");
        let long = draw(&[0; 4000], 7, Some(3));
        let commands: Vec<&[u8]> =
            long.split(|&b| b == 0x1b).filter(|part| part.starts_with(b"_G")).collect();
        assert_eq!(commands.len(), 2);
        assert!(commands[0].starts_with(b"_Ga=T,f=100,q=2,C=1,i=3,r=7,m=1;"));
        assert!(commands[1].starts_with(b"_Gm=0;"));
        let text: Vec<u8> =
            commands.iter().flat_map(|c| c.splitn(2, |&b| b == b';').nth(1).unwrap()).copied().collect();
        assert_eq!(BASE64_STANDARD.decode(text).unwrap(), [0; 4000]);
        assert_eq!(remove(3), b"\x1b_Ga=d,d=I,q=2,i=3\x1b\\");
    }
}
