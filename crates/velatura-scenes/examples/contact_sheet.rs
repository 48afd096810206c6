//! Writes an 8 by 8 grid of example scenes as a PNG and prints their captions.
//!
//! `contact_sheet OUTPUT.png [seen|held_out] [SIZE] [SEED] [FONT]`

use std::process::ExitCode;

use velatura_scenes::{DEFAULT_FONT, RgbImage, Scenes, Split};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let argument =
        |index: usize, default: &str| arguments.get(index).map_or(default, String::as_str).to_owned();
    let output =
        arguments.first().ok_or("usage: contact_sheet OUTPUT.png [seen|held_out] [SIZE] [SEED] [FONT]")?;
    let split = match argument(1, "seen").as_str() {
        "seen" => Split::Seen,
        "held_out" => Split::HeldOut,
        other => return Err(format!("there is no split called \"{other}\"; say seen or held_out").into()),
    };
    let (size, seed): (u32, u64) = (argument(2, "128").parse()?, argument(3, "0").parse()?);
    let scenes = Scenes::new(argument(4, DEFAULT_FONT), seed, split, size)?;
    let mut sheet = RgbImage::new(size * 8, size * 8);
    for index in 0..64 {
        let example = scenes.get(index);
        println!("{index:2} {}", example.caption);
        let (x, y) = (index as i64 % 8 * i64::from(size), index as i64 / 8 * i64::from(size));
        image::imageops::replace(&mut sheet, &example.image, x, y);
    }
    sheet.save(output)?;
    Ok(())
}
