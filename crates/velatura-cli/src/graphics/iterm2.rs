//! iTerm2's inline images: <https://iterm2.com/documentation-images.html>.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// Shows a PNG file over so many rows, from the cursor on.
pub fn draw(png: &[u8], rows: usize) -> Vec<u8> {
    let text = BASE64_STANDARD.encode(png);
    let size = png.len();
    format!("\x1b]1337;File=inline=1;size={size};width=auto;height={rows};preserveAspectRatio=1:{text}\x07")
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_one_command() {
        let expected = b"\x1b]1337;File=inline=1;size=3;width=auto;height=7;preserveAspectRatio=1:cG5n\x07";
        assert_eq!(draw(b"png", 7), expected);
    }
}
