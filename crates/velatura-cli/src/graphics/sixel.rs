//! DEC's sixel graphics (VT330/VT340 Programmer Reference Manual, volume 2, chapter 14): rows of six pixels in up to 256
//! colours. The colours are a fixed cube with ordered dithering, which needs no look at the picture and flickers little from
//! one preview to the next.

use super::Shown;

/// Shades of red, green and blue in the cube.
const SHADES: [usize; 3] = [6, 7, 6];
/// Bayer's matrix of four by four.
const BAYER: [[u16; 4]; 4] = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]];

/// Shows a picture, a pixel for each of its own, from the cursor on.
pub fn draw(picture: &Shown) -> Vec<u8> {
    let Shown { width, height, .. } = *picture;
    let colors = colors(picture);
    let mut out = format!("\x1bPq\"1;1;{width};{height}").into_bytes();
    let mut used: Vec<u8> = colors.clone();
    used.sort_unstable();
    used.dedup();
    for &color in &used {
        let [r, g, b] = shades(color).map(|(shade, most)| (shade * 100 + most / 2) / most);
        out.extend(format!("#{color};2;{r};{g};{b}").bytes());
    }
    for band in colors.chunks(6 * width.max(1)) {
        let mut here: Vec<u8> = band.to_vec();
        here.sort_unstable();
        here.dedup();
        for &color in &here {
            out.extend(format!("#{color}").bytes());
            let column = |x: usize| {
                let set = |(y, row): (usize, &[u8])| u8::from(row[x] == color) << y;
                b'?' + band.chunks(width).enumerate().map(set).sum::<u8>()
            };
            push_runs(&mut out, (0..width).map(column));
            // Back to the beginning of the band for the next colour.
            out.push(b'$');
        }
        out.push(b'-');
    }
    out.extend(b"\x1b\\");
    out
}

/// Characters, those that repeat by their number.
fn push_runs(out: &mut Vec<u8>, columns: impl Iterator<Item = u8>) {
    let mut run: (u8, usize) = (0, 0);
    let mut end = |(character, count): (u8, usize)| match count {
        0..=3 => out.extend(std::iter::repeat_n(character, count)),
        _ => out.extend(format!("!{count}{}", char::from(character)).bytes()),
    };
    for column in columns {
        match run.0 == column {
            true => run.1 += 1,
            false => {
                end(run);
                run = (column, 1);
            }
        }
    }
    end(run);
}

/// Each pixel's colour in the cube.
fn colors(picture: &Shown) -> Vec<u8> {
    let width = picture.width.max(1);
    let color = |(i, rgb): (usize, &[u8])| {
        let (x, y) = (i % width, i / width);
        let dither = usize::from(BAYER[y % 4][x % 4]);
        let nearest = |value: u8, shades: usize| {
            // The shade below, and the next one where what is left is more than the threshold.
            (usize::from(value) * (shades - 1) * 16 + 255 * dither + 127) / (255 * 16)
        };
        let [r, g, b] = [0, 1, 2].map(|c| nearest(rgb[c], SHADES[c]).min(SHADES[c] - 1));
        ((r * SHADES[1] + g) * SHADES[2] + b) as u8
    };
    picture.rgb.chunks_exact(3).enumerate().map(color).collect()
}

/// Shade and largest shade of red, green and blue.
fn shades(color: u8) -> [(usize, usize); 3] {
    let color = usize::from(color);
    let [r, g, b] = [color / (SHADES[1] * SHADES[2]), color / SHADES[2] % SHADES[1], color % SHADES[2]];
    [(r, SHADES[0] - 1), (g, SHADES[1] - 1), (b, SHADES[2] - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_white_and_a_black_column() {
        let picture = Shown { width: 2, height: 7, rgb: [[255; 3], [0; 3]].concat().repeat(7) };
        let text = String::from_utf8(draw(&picture)).unwrap();
        let expected = "\x1bPq\"1;1;2;7#0;2;0;0;0#251;2;100;100;100#0?~$#251~?$-#0?@$#251@?$-\x1b\\";
        assert_eq!(text, expected);
    }

    #[test]
    fn runs_are_counted() {
        let mut out = Vec::new();
        push_runs(&mut out, b"??~~~~~@".iter().copied());
        assert_eq!(out, b"??!5~@");
    }

    #[test]
    fn dithering_keeps_the_mean() {
        for value in [10u8, 60, 100, 128, 200, 250] {
            let picture = Shown { width: 16, height: 16, rgb: vec![value; 16 * 16 * 3] };
            let green: f64 = colors(&picture)
                .iter()
                .map(|&color| shades(color)[1].0 as f64 / (SHADES[1] - 1) as f64 * 255.0)
                .sum::<f64>()
                / 256.0;
            assert!((green - f64::from(value)).abs() < 5.0, "{value} became {green}");
        }
    }
}
