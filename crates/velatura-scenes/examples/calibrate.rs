//! Measures rendering speed, and how well the template judge reads true renders, clean and damaged.
//!
//! `calibrate [COUNT] [SIZE] [FONT]`

use std::process::ExitCode;
use std::time::Instant;

use velatura_scenes::{DEFAULT_FONT, Example, GlyphId, Glyphs, Judge, RgbImage, Rng, Scenes, Scores, Split};

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

type Damage = fn(&RgbImage, &mut Rng) -> RgbImage;

fn run(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let argument =
        |index: usize, default: &str| arguments.get(index).map_or(default, String::as_str).to_owned();
    let (count, size): (u64, u32) = (argument(0, "1000").parse()?, argument(1, "64").parse()?);
    let start = Instant::now();
    let scenes = Scenes::new(argument(2, DEFAULT_FONT), 1, Split::Seen, size)?;
    println!("glyphs loaded in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    let examples: Vec<Example> = (0..count).map(|index| scenes.get(index)).collect();
    println!("{:.0} pictures/s rendered at {size} px", count as f64 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    let judge = Judge::new(scenes.glyphs());
    println!("judge built in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);

    let damages: [(&str, Damage); 9] = [
        ("none", |image, _| image.clone()),
        ("blur 1/64", |image, _| blurred(image, 64.0)),
        ("blur 1/32", |image, _| blurred(image, 32.0)),
        ("blur 1/16", |image, _| blurred(image, 16.0)),
        ("noise 12", |image, rng| noisy(image, 12.0, rng)),
        ("noise 30", |image, rng| noisy(image, 30.0, rng)),
        ("blur + noise", |image, rng| noisy(&blurred(image, 48.0), 12.0, rng)),
        ("half contrast", |image, _| faded(image, 0.5)),
        ("moved 3%", moved),
    ];
    println!(
        "{:14} glyph  color  posit. count  all    | likeness: 0.1%  1%   10%  50%  | pictures/s",
        "damage"
    );
    for (name, damage) in damages {
        let (mut scores, mut likeness) = (Scores::default(), Vec::new());
        let mut seconds = 0.0;
        for (index, example) in examples.iter().enumerate() {
            let image = damage(&example.image, &mut Rng::new(&[index as u64]));
            let start = Instant::now();
            let reading = judge.read(&image);
            seconds += start.elapsed().as_secs_f64();
            let verdict = reading.verdict(&example.intent);
            if name == "none" && !verdict.all {
                println!("  wrong: {:?} read as {:?}", example.caption, reading);
            }
            scores.add(&verdict);
            likeness.extend(reading.objects.iter().map(|object| object.likeness));
        }
        likeness.sort_by(f32::total_cmp);
        let quantile = |q: f64| likeness[(likeness.len() as f64 * q) as usize];
        println!(
            "{name:14} {}|           {:.3} {:.3} {:.3} {:.3} | {:.0}",
            row(&scores),
            quantile(0.001),
            quantile(0.01),
            quantile(0.1),
            quantile(0.5),
            count as f64 / seconds
        );
    }
    let mut shuffled = Scores::default();
    for (index, example) in examples.iter().enumerate() {
        let other = &examples[(index + 1) % examples.len()];
        shuffled.add(&judge.read(&example.image).verdict(&other.intent));
    }
    println!("{:14} {}", "shuffled", row(&shuffled));

    // How alike are different glyphs? A judge that knows one half reads pictures of the other half.
    let (even, odd): (Vec<GlyphId>, Vec<GlyphId>) =
        scenes.glyphs().present().iter().partition(|id| id.index() % 2 == 0);
    let half = |ids: &[GlyphId]| {
        let names: Vec<&str> = ids.iter().map(|id| id.name()).collect();
        Glyphs::load_named(argument(2, DEFAULT_FONT), &names)
    };
    let stranger = Judge::new(&half(&even)?);
    let strange = Scenes::with_glyphs(half(&odd)?.into(), 1, Split::Seen, size)?;
    let mut likeness: Vec<f32> = (0..count)
        .flat_map(|index| stranger.read(&strange.get(index).image).objects)
        .map(|object| object.likeness)
        .collect();
    likeness.sort_by(f32::total_cmp);
    let taken = likeness.iter().filter(|&&l| l >= velatura_scenes::judge::LEAST_LIKENESS).count();
    println!(
        "unknown glyphs: likeness median {:.3}, 90% {:.3}, 99% {:.3}; {:.1}% taken for a known glyph",
        likeness[likeness.len() / 2],
        likeness[likeness.len() * 9 / 10],
        likeness[likeness.len() * 99 / 100],
        100.0 * taken as f64 / likeness.len() as f64
    );
    Ok(())
}

fn row(scores: &Scores) -> String {
    scores.named().iter().map(|(_, tally)| format!("{:.3}  ", tally.fraction().unwrap_or(f64::NAN))).collect()
}

fn blurred(image: &RgbImage, part: f32) -> RgbImage {
    image::imageops::blur(image, image.width() as f32 / part)
}

fn noisy(image: &RgbImage, deviation: f32, rng: &mut Rng) -> RgbImage {
    let mut image = image.clone();
    for value in image.iter_mut() {
        // The sum of twelve uniform numbers is close enough to a normal one.
        let normal = (0..12).map(|_| rng.unit()).sum::<f32>() - 6.0;
        *value = (f32::from(*value) + normal * deviation).round().clamp(0.0, 255.0) as u8;
    }
    image
}

/// Objects faded towards the background.
fn faded(image: &RgbImage, part: f32) -> RgbImage {
    let background = *image.get_pixel(0, 0);
    let mut image = image.clone();
    for pixel in image.pixels_mut() {
        for (value, background) in pixel.0.iter_mut().zip(background.0) {
            let mixed = f32::from(background) + part * (f32::from(*value) - f32::from(background));
            *value = mixed.round() as u8;
        }
    }
    image
}

/// Moved by up to three percent in a random direction, the rim filled with the background.
fn moved(image: &RgbImage, rng: &mut Rng) -> RgbImage {
    let reach = 0.03 * image.width() as f32;
    let mut shift = || rng.range(-reach, reach).round() as i64;
    let mut result = RgbImage::from_pixel(image.width(), image.height(), *image.get_pixel(0, 0));
    image::imageops::replace(&mut result, image, shift(), shift());
    result
}
