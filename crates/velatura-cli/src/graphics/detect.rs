//! Which protocol a terminal knows, by its environment.

/// Environment variable that decides it: `kitty`, `iterm2`, `sixel` or `none`.
pub const VARIABLE: &str = "VELATURA_GRAPHICS";

/// How a terminal is told a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// kitty's graphics protocol: kitty, Ghostty, Konsole.
    Kitty,
    /// iTerm2's inline images: iTerm2, WezTerm, mintty, Rio, Tabby.
    Iterm2,
    /// DEC's sixel graphics: foot, mlterm, Contour, and what says so in `TERM`.
    Sixel,
}

impl Protocol {
    /// That of the terminal that this process runs in.
    pub fn here() -> Option<Self> {
        Self::of(&|name| std::env::var(name).ok())
    }

    /// That of a terminal with such an environment; nothing where it shows no pictures, or may not.
    fn of(variable: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let get = |name: &str| variable(name).filter(|value| !value.is_empty());
        if let Some(asked) = get(VARIABLE) {
            return match asked.to_ascii_lowercase().as_str() {
                "kitty" => Some(Protocol::Kitty),
                "iterm2" | "iterm" => Some(Protocol::Iterm2),
                "sixel" => Some(Protocol::Sixel),
                _ => None,
            };
        }
        // Multiplexers keep these sequences to themselves, whatever the terminal outside.
        if get("TMUX").is_some() || get("STY").is_some() || get("ZELLIJ").is_some() {
            return None;
        }
        let term = get("TERM").unwrap_or_default();
        if term == "dumb" {
            return None;
        }
        let program = get("TERM_PROGRAM").unwrap_or_default();
        match program.as_str() {
            "iTerm.app" | "WezTerm" | "mintty" | "rio" | "Tabby" => return Some(Protocol::Iterm2),
            "ghostty" => return Some(Protocol::Kitty),
            _ => {}
        }
        let kitty =
            get("KITTY_WINDOW_ID").is_some() || matches!(term.as_str(), "xterm-kitty" | "xterm-ghostty");
        // Konsole says its version as 220400 for 22.04, the first with kitty's protocol.
        let konsole = get("KONSOLE_VERSION").and_then(|v| v.parse().ok()).is_some_and(|v: u32| v >= 220_400);
        if kitty || konsole {
            return Some(Protocol::Kitty);
        }
        if get("LC_TERMINAL").as_deref() == Some("iTerm2") {
            return Some(Protocol::Iterm2);
        }
        let sixel = ["foot", "mlterm", "contour", "yaft"].iter().any(|name| term.starts_with(name));
        (sixel || term.contains("sixel")).then_some(Protocol::Sixel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<Protocol> {
        Protocol::of(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn terminals_are_known_by_what_they_say() {
        let (kitty, iterm2, sixel) = (Some(Protocol::Kitty), Some(Protocol::Iterm2), Some(Protocol::Sixel));
        for (variables, expected) in [
            (&[("TERM", "xterm-kitty")][..], kitty),
            (&[("TERM", "xterm-256color"), ("KITTY_WINDOW_ID", "1")], kitty),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "ghostty")], kitty),
            (&[("TERM", "xterm-256color"), ("KONSOLE_VERSION", "240801")], kitty),
            (&[("TERM", "xterm-256color"), ("KONSOLE_VERSION", "211200")], None),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app")], iterm2),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "WezTerm")], iterm2),
            (&[("TERM", "xterm-256color"), ("LC_TERMINAL", "iTerm2")], iterm2),
            (&[("TERM", "foot")], sixel),
            (&[("TERM", "foot-extra")], sixel),
            (&[("TERM", "xterm-sixel")], sixel),
            (&[("TERM", "xterm-256color")], None),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "Apple_Terminal")], None),
            (&[], None),
        ] {
            assert_eq!(of(variables), expected, "{variables:?}");
        }
    }

    #[test]
    fn a_multiplexer_shows_none_and_the_variable_decides() {
        assert_eq!(of(&[("TERM", "xterm-kitty"), ("TMUX", "/tmp/tmux")]), None);
        assert_eq!(of(&[("TERM", "screen"), ("TERM_PROGRAM", "iTerm.app"), ("STY", "1.x")]), None);
        assert_eq!(of(&[(VARIABLE, "Sixel"), ("TMUX", "x")]), Some(Protocol::Sixel));
        assert_eq!(of(&[(VARIABLE, "none"), ("TERM", "xterm-kitty")]), None);
        assert_eq!(of(&[(VARIABLE, ""), ("TERM", "xterm-kitty")]), Some(Protocol::Kitty));
    }
}
