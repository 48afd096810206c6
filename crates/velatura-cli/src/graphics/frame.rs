//! A place in the terminal's lines where pictures follow each other.

use super::{Protocol, Shown, iterm2, kitty, sixel};

/// Height of a row in pixels where the terminal does not say it.
const USUAL_ROW: usize = 20;
/// kitty's number of the pictures of a frame; any that other programs hardly take.
const NUMBER: u32 = 0x7665_6C61;

/// How large the terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    columns: usize,
    rows: usize,
    /// Height of a row in pixels.
    row: usize,
}

impl Window {
    /// That of the terminal behind standard error.
    fn here() -> Self {
        let usual = Window { columns: 80, rows: 24, row: USUAL_ROW };
        #[cfg(unix)]
        if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stderr()) {
            let (rows, columns) = (usize::from(size.ws_row), usize::from(size.ws_col));
            if rows > 0 && columns > 0 {
                let row = usize::from(size.ws_ypixel) / rows;
                return Window { columns, rows, row: if row == 0 { USUAL_ROW } else { row } };
            }
        }
        usual
    }
}

/// A place for pictures. Each is drawn over the one before as long as nothing else was written.
pub struct Frame {
    protocol: Protocol,
    window: Window,
    /// Rows that are wanted.
    rows: usize,
    /// kitty's number of the pictures, by which the next one takes the place of the last; none of those that stay.
    number: Option<u32>,
    /// Rows of the picture that stands above the cursor.
    drawn: usize,
}

impl Frame {
    /// A frame of so many rows, less where the terminal has less room.
    pub fn new(protocol: Protocol, rows: usize) -> Self {
        Frame { protocol, window: Window::here(), rows, number: Some(NUMBER), drawn: 0 }
    }

    /// What shows a picture, in place of the one before; the cursor is then at the beginning of the line below.
    pub fn draw(&mut self, picture: &Shown) -> Vec<u8> {
        let rows = self.rows_for(picture);
        let mut out = self.back();
        out.extend(self.open(rows, picture));
        self.drawn = rows;
        out
    }

    /// What takes the picture away; the cursor is then where it was before.
    pub fn clear(&mut self) -> Vec<u8> {
        let mut out = self.back();
        if let (Protocol::Kitty, Some(number), false) = (self.protocol, self.number, out.is_empty()) {
            out.extend(kitty::remove(number));
        }
        self.drawn = 0;
        out
    }

    /// To the beginning of the picture that stands, which goes.
    fn back(&self) -> Vec<u8> {
        match self.drawn {
            0 => Vec::new(),
            rows => format!("\x1b[{rows}A\r\x1b[J").into_bytes(),
        }
    }

    /// Room for so many rows, the picture there, and the cursor below.
    fn open(&self, rows: usize, picture: &Shown) -> Vec<u8> {
        // The lines first: where the terminal scrolls for them, it does so before the picture stands. Then to the first of
        // them, remembered because protocols differ in where they leave the cursor.
        let mut out = "\n".repeat(rows).into_bytes();
        out.extend(format!("\x1b[{rows}A\r\x1b7").bytes());
        out.extend(match self.protocol {
            Protocol::Kitty => kitty::draw(&png(picture), rows, self.number),
            Protocol::Iterm2 => iterm2::draw(&png(picture), rows),
            Protocol::Sixel => sixel::draw(&picture.scaled_to((rows * self.window.row).max(1))),
        });
        out.extend(format!("\x1b8\x1b[{rows}B\r").bytes());
        out
    }

    /// Rows such that the picture is no wider than the terminal; a cell is about twice as high as wide.
    fn rows_for(&self, picture: &Shown) -> usize {
        let widest = self.window.columns * picture.height / (2 * picture.width.max(1));
        self.rows.min(widest).min(self.window.rows.saturating_sub(2)).max(1)
    }
}

/// A finished picture for good, over at most so many rows.
pub fn show(protocol: Protocol, picture: &Shown, rows: usize) -> Vec<u8> {
    let mut frame = Frame { number: None, ..Frame::new(protocol, rows) };
    frame.draw(picture)
}

/// A PNG file without texts; nothing where there is no picture.
fn png(picture: &Shown) -> Vec<u8> {
    velatura::picture::encode(picture.width, picture.height, &picture.rgb, &[]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { columns: 80, rows: 24, row: 10 };

    fn picture(width: usize, height: usize) -> Shown {
        Shown { width, height, rgb: vec![200; width * height * 3] }
    }

    fn frame(protocol: Protocol) -> Frame {
        Frame { protocol, window: WINDOW, rows: 12, number: Some(9), drawn: 0 }
    }

    #[test]
    fn a_picture_has_the_rows_that_there_are() {
        let rows =
            |wanted, picture: &Shown| Frame { rows: wanted, ..frame(Protocol::Kitty) }.rows_for(picture);
        assert_eq!(rows(12, &picture(64, 64)), 12);
        assert_eq!(rows(40, &picture(64, 64)), 22);
        // Four times as wide as high: 80 columns are 10 rows.
        assert_eq!(rows(12, &picture(64, 16)), 10);
        assert_eq!(rows(12, &picture(1000, 1)), 1);
    }

    #[test]
    fn the_next_picture_takes_the_place_of_the_last() {
        for protocol in [Protocol::Kitty, Protocol::Iterm2, Protocol::Sixel] {
            let mut frame = frame(protocol);
            assert_eq!(frame.clear(), b"");
            let first = frame.draw(&picture(8, 8));
            let lines = "\n".repeat(12);
            assert!(first.starts_with(format!("{lines}\x1b[12A\r\x1b7\x1b").as_bytes()), "{protocol:?}");
            assert!(first.ends_with(b"\x1b8\x1b[12B\r"), "{protocol:?}");
            let second = frame.draw(&picture(8, 8));
            assert!(second.starts_with(b"\x1b[12A\r\x1b[J\n"), "{protocol:?}");
            let cleared = frame.clear();
            assert!(cleared.starts_with(b"\x1b[12A\r\x1b[J"));
            assert_eq!(cleared.ends_with(&kitty::remove(9)), protocol == Protocol::Kitty);
            assert_eq!(frame.clear(), b"");
        }
    }

    #[test]
    fn a_sixel_picture_is_as_high_as_its_rows() {
        let drawn = String::from_utf8(frame(Protocol::Sixel).draw(&picture(8, 4))).unwrap();
        assert!(drawn.contains("\x1bPq\"1;1;240;120"), "{drawn}");
    }
}
