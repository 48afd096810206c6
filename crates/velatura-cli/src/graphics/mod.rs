//! Pictures in the terminal, where it can show them.
//!
//! Three protocols are spoken: kitty's, iTerm2's and sixel. Which one a terminal knows is told by its environment; asking the
//! terminal itself would mean to read what the person types.

mod detect;
mod frame;
mod iterm2;
mod kitty;
mod sixel;

pub use self::detect::{Protocol, VARIABLE};
pub use self::frame::{Frame, show};

/// A picture to show.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Red, green, blue, row by row.
    pub rgb: Vec<u8>,
}

impl Shown {
    /// Pictures of one height side by side.
    pub fn side_by_side(pictures: &[Shown]) -> Option<Shown> {
        let height = pictures.first()?.height;
        let width = pictures.iter().map(|picture| picture.width).sum();
        let row = |y: usize| {
            pictures.iter().flat_map(move |picture| {
                let line = picture.width * 3;
                picture.rgb.get(y * line..(y + 1) * line).unwrap_or_default()
            })
        };
        let rgb = (0..height).flat_map(row).copied().collect();
        Some(Shown { width, height, rgb })
    }

    /// Scaled to a height, each pixel the nearest one's.
    fn scaled_to(&self, height: usize) -> Shown {
        let width = (self.width * height).div_ceil(self.height.max(1)).max(1);
        let pixel = |x: usize, y: usize| {
            let (x, y) = (x * self.width / width, y * self.height / height.max(1));
            let at = (y * self.width + x) * 3;
            self.rgb.get(at..at + 3).unwrap_or(&[0; 3])
        };
        let rgb = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).copied().collect();
        Shown { width, height, rgb }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_side_by_side() {
        let one = Shown { width: 1, height: 2, rgb: vec![1, 1, 1, 2, 2, 2] };
        let two = Shown { width: 2, height: 2, rgb: (3..15).collect() };
        let both = Shown::side_by_side(&[one, two]).unwrap();
        assert_eq!((both.width, both.height), (3, 2));
        assert_eq!(both.rgb, [1, 1, 1, 3, 4, 5, 6, 7, 8, 2, 2, 2, 9, 10, 11, 12, 13, 14]);
        assert_eq!(Shown::side_by_side(&[]), None);
    }

    #[test]
    fn pictures_are_scaled_to_the_nearest_pixel() {
        let picture = Shown { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 6] };
        let larger = picture.scaled_to(2);
        assert_eq!((larger.width, larger.height), (4, 2));
        assert_eq!(larger.rgb[..12], [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]);
        assert_eq!(larger.scaled_to(1).rgb, picture.rgb);
    }
}
