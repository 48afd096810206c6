//! The denoiser asked about several images with several texts at once, and the answers guided.

use velatura_cpu::{CancelToken, Data};
use velatura_samplers::noise::LatentShape;
use velatura_samplers::{Answer, Guidance};

use super::encode::Conditions;
use crate::Error;
use crate::engine::Engine;
use crate::networks::{Encoded, Network, names};
use crate::plans::{PlanKey, lock};
use crate::request::Precision;

/// Asks a model's denoiser about latents of one size.
pub(crate) struct Denoiser<'a> {
    pub engine: &'a Engine,
    pub shape: LatentShape,
    pub precision: Precision,
    pub cancel: &'a CancelToken,
    pub told: Told,
}

/// What a denoiser is told beside noisy latents, timesteps and texts; the same at every step.
#[derive(Clone, Default)]
pub(crate) struct Told {
    /// Channels beside the latent, `[h, w, extra]` for each image; empty where the latent is all.
    pub beside: Vec<Vec<f32>>,
    /// Scale of the guidance by what is beside the latent (Brooks et al. 2022, "InstructPix2Pix", equation 3). 1 is none.
    pub beside_guidance: f32,
    /// Class label.
    pub label: Option<i32>,
    /// The guidance that a latent consistency model is told, embedded.
    pub guidance: Option<Vec<f32>>,
}

/// What a picture is and is not to show.
pub(crate) struct Guide {
    pub negative: std::sync::Arc<Conditions>,
    pub prompt: std::sync::Arc<Conditions>,
}

/// An image and a text to look at.
struct Question<'a> {
    image: usize,
    text: &'a Encoded,
    /// Whether zeros stand in place of what is beside the latent.
    blind: bool,
}

impl Denoiser<'_> {
    /// The guided answers for a batch of latents `[images, h, w, C]` at a timestep, one image for each guide, and those
    /// without the prompt where guidance is on, which `guided` says. `call` counts the calls of the run.
    pub fn guided(
        &self,
        latents: &[f32],
        timestep: f32,
        guides: &[Guide],
        (guidance, guided): (&Guidance, bool),
        call: usize,
    ) -> Result<Answer, Error> {
        let plain = Guidance { scale: 1.0, ..*guidance };
        let guidance = if guided { guidance } else { &plain };
        let twice = !self.told.beside.is_empty() && self.told.beside_guidance != 1.0;
        let sides: Vec<Side<'_>> =
            guides.iter().map(|guide| Side::new(guide, call, guided || twice)).collect();
        // First every image without anything, then without its prompt, then with it, so that one plan serves all steps.
        let unguided: Vec<(usize, &Encoded)> =
            sides.iter().enumerate().filter_map(|(image, side)| Some((image, side.without?))).collect();
        let of = |blind: bool| unguided.iter().map(move |&(image, text)| Question { image, text, blind });
        let without = of(true).filter(|_| twice).chain(of(false));
        let with = sides.iter().enumerate().flat_map(|(image, side)| {
            side.with.iter().map(move |&(_, text)| Question { image, text, blind: false })
        });
        let questions: Vec<Question<'_>> = without.chain(with).collect();
        let answers = self.ask(latents, timestep, &questions, guides.len())?;
        let (blind, rest) = answers.split_at(if twice { unguided.len() } else { 0 });
        let (without, with) = rest.split_at(unguided.len());
        let (mut blind, mut without, mut with) = (blind.iter(), without.iter(), with.iter());
        let mut out = Vec::with_capacity(latents.len());
        let mut unprompted = Vec::with_capacity(if guided { latents.len() } else { 0 });
        for side in &sides {
            let unguided = side.without.and_then(|_| without.next());
            let answers = with.by_ref().take(side.with.len());
            let mut answer = side.combine(guidance, unguided, answers)?;
            if let (Some(unguided), Some(blind)) = (unguided, blind.next()) {
                // blind + s_image (unguided - blind) + s_text (guided - unguided)
                let more = self.told.beside_guidance - 1.0;
                for ((answer, unguided), blind) in answer.iter_mut().zip(unguided).zip(blind) {
                    *answer += more * (unguided - blind);
                }
            }
            out.extend(answer);
            unprompted.extend(unguided.into_iter().flatten().filter(|_| guided));
        }
        let unguided = (guided && unprompted.len() == out.len()).then_some(unprompted);
        Ok(Answer { guided: out, unguided })
    }

    /// The answers to questions, in their order. Those with contexts of one length are asked together.
    fn ask(
        &self,
        latents: &[f32],
        timestep: f32,
        questions: &[Question<'_>],
        images: usize,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let length = self.shape.len();
        let mut answers = vec![Vec::new(); questions.len()];
        let mut lengths: Vec<usize> = Vec::new();
        for question in questions {
            if !lengths.contains(&question.text.tokens) {
                lengths.push(question.text.tokens);
            }
        }
        for tokens in lengths {
            let alike: Vec<usize> =
                (0..questions.len()).filter(|&i| questions[i].text.tokens == tokens).collect();
            // Prompts of several parts must not need more memory than those of one.
            for group in alike.chunks(2 * images) {
                let mut sample = Vec::new();
                let mut texts = Encoded::default();
                for Question { image, text, blind } in group.iter().map(|&i| &questions[i]) {
                    let latent = &latents[image * length..(image + 1) * length];
                    self.told.join(&mut sample, latent, *image, *blind, self.shape.channels);
                    texts.append(text);
                    texts.pooled.extend(&text.pooled);
                    texts.time_ids.extend(&text.time_ids);
                }
                let output = self.run(&sample, timestep, &texts, group.len())?;
                for (&question, answer) in group.iter().zip(output.chunks_exact(length)) {
                    answers[question] = answer.to_vec();
                }
            }
        }
        Ok(answers)
    }

    /// One run of the network on a batch; `texts` holds as many texts of equal length.
    pub fn run(
        &self,
        sample: &[f32],
        timestep: f32,
        texts: &Encoded,
        batch: usize,
    ) -> Result<Vec<f32>, Error> {
        let plan = self.engine.plan(PlanKey {
            network: Network::Denoise { tokens: texts.tokens / batch },
            batch,
            height: self.shape.height,
            width: self.shape.width,
            precision: self.precision,
        })?;
        let mut plan = lock(&plan);
        let timesteps = vec![timestep; batch];
        let labels = vec![self.told.label.unwrap_or_default(); batch];
        let guidance = self.told.guidance.as_deref().unwrap_or_default().repeat(batch);
        let inputs = [
            (names::SAMPLE, Data::F32(sample)),
            (names::TIMESTEP, Data::F32(&timesteps)),
            (names::CONTEXT, Data::F32(&texts.context)),
            (names::POOLED, Data::F32(&texts.pooled)),
            (names::TIME_IDS, Data::F32(&texts.time_ids)),
            (names::MASK, Data::F32(&texts.mask)),
            (names::LABEL, Data::I32(&labels)),
            (names::GUIDANCE, Data::F32(&guidance)),
        ];
        plan.run(&inputs, self.cancel)?;
        Ok(plan.output(names::OUTPUT)?.to_vec())
    }
}

impl Told {
    /// Appends what the denoiser reads of an image: each pixel of the latent, and what is beside it.
    fn join(&self, sample: &mut Vec<f32>, latent: &[f32], image: usize, blind: bool, channels: usize) {
        let Some(beside) = self.beside.get(image) else {
            sample.extend(latent);
            return;
        };
        let extra = beside.len() * channels / latent.len().max(1);
        for (latent, beside) in latent.chunks_exact(channels).zip(beside.chunks_exact(extra.max(1))) {
            sample.extend(latent);
            sample.extend(beside.iter().map(|&v| if blind { 0.0 } else { v }));
        }
    }
}

/// The guidance as a latent consistency model is told it: sinusoids of a thousand times what is above 1 (diffusers'
/// `get_guidance_scale_embedding`).
pub(crate) fn guidance_embedding(scale: f32, width: usize) -> Vec<f32> {
    let half = width / 2;
    let angle = |i: usize| {
        let exponent = -(10_000f64.ln()) / (half.max(2) - 1) as f64 * i as f64;
        1000.0 * (f64::from(scale) - 1.0) * exponent.exp()
    };
    let sines = (0..half).map(|i| angle(i).sin());
    let waves = sines.chain((0..half).map(|i| angle(i).cos())).map(|v| v as f32);
    waves.chain(std::iter::repeat(0.0)).take(width).collect()
}

/// The texts of one image at one call.
struct Side<'a> {
    /// What it is not to show; nothing where that is not asked for.
    without: Option<&'a Encoded>,
    /// What it is to show, in parts with their weights.
    with: Vec<(f32, &'a Encoded)>,
}

impl<'a> Side<'a> {
    fn new(guide: &'a Guide, call: usize, guided: bool) -> Self {
        let with: Vec<(f32, &Encoded)> = guide.prompt.at(call).collect();
        let alone = matches!(with[..], [(1.0, _)]);
        let negative = guide.negative.at(call).map(|(_, text)| text).next();
        Side { without: negative.filter(|_| guided || !alone), with }
    }

    /// `without + scale * sum of weight * (with - without)` (Liu et al. 2022, "Compositional visual generation with
    /// composable diffusion models").
    fn combine<'b>(
        &self,
        guidance: &Guidance,
        without: Option<&Vec<f32>>,
        mut with: impl Iterator<Item = &'b Vec<f32>>,
    ) -> Result<Vec<f32>, Error> {
        let lacks = || Error::Internal("a question without an answer".into());
        let Some(without) = without else { return Ok(with.next().ok_or_else(lacks)?.clone()) };
        let together = match self.with[..] {
            [(1.0, _)] => with.next().ok_or_else(lacks)?.clone(),
            _ => {
                let mut sum = without.clone();
                for ((weight, _), answer) in self.with.iter().zip(with) {
                    for ((sum, &with), &without) in sum.iter_mut().zip(answer).zip(without) {
                        *sum += weight * (with - without);
                    }
                }
                sum
            }
        };
        Ok(guidance.combine(&[without.as_slice(), &together].concat(), 1)?)
    }
}
