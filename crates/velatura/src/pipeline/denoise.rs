//! The denoiser asked about several images with several texts at once, and the answers guided.

use velatura_cpu::{CancelToken, Data};
use velatura_samplers::noise::LatentShape;
use velatura_samplers::{
    Answer, Call, Guidance, PercentileThreshold, Prediction, perturbed_attention, perturbed_attention_scale,
    rescale_noise_cfg, self_attention,
};

use super::deep::Kept;
use super::encode::Conditions;
use super::self_attention::Seen;
use crate::Error;
use crate::engine::Engine;
use crate::networks::{Changes, Encoded, Network, names};
use crate::plans::{PlanKey, lock};
use crate::request::{GuidanceOptions, Precision, SelfAttentionGuidance};

/// Asks a model's denoiser about latents of one size.
pub(crate) struct Denoiser<'a> {
    pub engine: &'a Engine,
    pub shape: LatentShape,
    pub precision: Precision,
    pub cancel: &'a CancelToken,
    pub told: Told,
    /// Changes on the network's way.
    pub changes: Changes,
    /// Self-attentions that are perturbed where there is guidance by that.
    pub perturbed: u128,
    /// What the deep part answered at an earlier step, where that is kept.
    pub kept: Option<Kept>,
}

/// How the answers at a call are combined.
#[derive(Clone, Copy)]
pub(crate) struct Recipe<'a> {
    pub guidance: &'a Guidance,
    pub options: &'a GuidanceOptions,
    pub call: Call,
    /// What the network's answers mean.
    pub prediction: Prediction,
    /// Whether guidance by the prompt is on.
    pub guided: bool,
}

impl Recipe<'_> {
    /// The scale of perturbed-attention guidance; nothing where there is none.
    fn perturbed_scale(&self) -> Option<f32> {
        let perturbed = self.options.perturbed_attention.as_ref()?;
        let scale = perturbed_attention_scale(perturbed.scale, perturbed.adaptive_scale, self.call.timestep);
        (scale > 0.0 && self.guidance.is_on(self.call.step, self.call.steps)).then_some(scale)
    }

    /// Self-attention guidance; nothing where there is none.
    fn self_attention(&self) -> Option<&SelfAttentionGuidance> {
        let on = self.guidance.is_on(self.call.step, self.call.steps);
        self.options.self_attention.as_ref().filter(|_| on)
    }
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
#[derive(Clone, Copy)]
struct Question<'a> {
    image: usize,
    text: &'a Encoded,
    /// Whether zeros stand in place of what is beside the latent.
    blind: bool,
    /// Changes on the network's way.
    changes: Changes,
    /// Which it is of the questions about that image: the same at every step.
    place: usize,
}

/// What one run of the network gives.
pub(crate) struct Output {
    /// The answers, one after another.
    pub answers: Vec<f32>,
    /// Where the network looked, `[h, w]` for each, or nothing where that is not asked for.
    received: Vec<f32>,
    /// What came up from the deep part, for each, or nothing where that is not asked for.
    deep: Vec<f32>,
}

/// What came of questions, in their order.
#[derive(Default)]
struct Replies {
    answers: Vec<Vec<f32>>,
    /// Where the network looked, where that was asked for.
    received: Vec<Vec<f32>>,
}

impl Denoiser<'_> {
    /// The guided answers for a batch of latents `[images, h, w, C]` at a timestep, one image for each guide, and those
    /// without the prompt where guidance is on.
    pub fn guided(&self, latents: &[f32], guides: &[Guide], recipe: Recipe<'_>) -> Result<Answer, Error> {
        let Recipe { call, guided, .. } = recipe;
        let perturbed_scale = recipe.perturbed_scale().filter(|_| self.perturbed != 0);
        let watches = self.engine.manifest().unet.can_be_watched();
        let own = recipe.self_attention().filter(|_| watches);
        let usual = self.changes.watching(own.is_some());
        let twice = !self.told.beside.is_empty() && self.told.beside_guidance != 1.0;
        let sides: Vec<Side<'_>> =
            guides.iter().map(|guide| Side::new(guide, call.evaluation, guided || twice)).collect();
        // First every image without anything, then without its prompt, then with it, so that one plan serves all steps.
        let unguided: Vec<(usize, &Encoded)> =
            sides.iter().enumerate().filter_map(|(image, side)| Some((image, side.without?))).collect();
        let of = |blind: bool| {
            let place = usize::from(!blind);
            unguided.iter().map(move |&(image, text)| Question { image, text, blind, changes: usual, place })
        };
        let without = of(true).filter(|_| twice).chain(of(false));
        let with = |changes: Changes| {
            sides.iter().enumerate().flat_map(move |(image, side)| {
                let ask = move |(part, &(_, text)): (usize, &(f32, _))| Question {
                    image,
                    text,
                    blind: false,
                    changes,
                    place: 2 + part,
                };
                side.with.iter().enumerate().map(ask)
            })
        };
        let parts: usize = sides.iter().map(|side| side.with.len()).sum();
        let perturbed = with(self.changes.perturbed(self.perturbed)).filter(|_| perturbed_scale.is_some());
        let mut questions: Vec<Question<'_>> = without.chain(with(usual)).chain(perturbed).collect();
        self.divide(&mut questions, call.step, guides.len());
        let replies = self.ask(latents, call.timestep, &questions, guides.len())?;
        let away_from = match own {
            Some(own) => self.ask_degraded(latents, &sides, &questions, &replies, (own, &recipe))?,
            None => Vec::new(),
        };
        let answers = replies.answers;
        let (blind, rest) = answers.split_at(if twice { unguided.len() } else { 0 });
        let (without, with) = rest.split_at(unguided.len());
        let (with, perturbed) = with.split_at(parts);
        let (mut blind, mut without) = (blind.iter(), without.iter());
        let (mut with, mut perturbed) = (with.iter(), perturbed.iter());
        let mut out = Vec::with_capacity(latents.len());
        let mut unprompted = Vec::with_capacity(if guided { latents.len() } else { 0 });
        for (image, side) in sides.iter().enumerate() {
            let unguided = side.without.and_then(|_| without.next());
            let prompted = side.together(unguided, &mut with)?;
            let mut answer = match unguided {
                Some(unguided) => recipe.guide(unguided, &prompted, self.shape.channels)?,
                None => prompted.clone(),
            };
            if let Some(scale) = perturbed_scale {
                let away = side.together(unguided, &mut perturbed)?;
                answer = perturbed_attention(&answer, &prompted, &away, scale)?;
            }
            if let (Some(own), Some(away)) = (own, away_from.get(image)) {
                answer = self_attention(&answer, unguided.unwrap_or(&prompted), away, own.scale)?;
            }
            if unguided.is_some() && guided && recipe.guidance.rescale > 0.0 {
                rescale_noise_cfg(&mut answer, &prompted, recipe.guidance.rescale);
            }
            if let (Some(unguided), Some(blind)) = (unguided, blind.next()) {
                // blind + s_image (unguided - blind) + s_text (guided - unguided)
                let more = self.told.beside_guidance - 1.0;
                for ((answer, unguided), blind) in answer.iter_mut().zip(unguided).zip(blind) {
                    *answer += more * (unguided - blind);
                }
            }
            if let Some(threshold) = &recipe.options.percentile_threshold {
                let latent = &latents[image * self.shape.len()..][..self.shape.len()];
                answer = recipe.thresholded(threshold, latent, answer)?;
            }
            out.extend(answer);
            unprompted.extend(unguided.into_iter().flatten().filter(|_| guided));
        }
        let unguided = (guided && unprompted.len() == out.len()).then_some(unprompted);
        Ok(Answer { guided: out, unguided })
    }

    /// For each image the answer about its latent blurred where the network looked without its prompt, or with it where
    /// nothing was asked without.
    fn ask_degraded(
        &self,
        latents: &[f32],
        sides: &[Side<'_>],
        questions: &[Question<'_>],
        replies: &Replies,
        (own, recipe): (&SelfAttentionGuidance, &Recipe<'_>),
    ) -> Result<Vec<Vec<f32>>, Error> {
        let (level, prediction) = (recipe.call.level, recipe.prediction);
        let seen = Seen { shape: self.shape, level, prediction, blur: own.blur };
        let mut degraded = Vec::with_capacity(latents.len());
        let mut again = Vec::with_capacity(sides.len());
        for (image, side) in sides.iter().enumerate() {
            let text = side.without.or(side.with.first().map(|&(_, text)| text));
            let asked = |q: &Question<'_>| {
                q.image == image && !q.blind && text.is_some_and(|text| std::ptr::eq(q.text, text))
            };
            let at = questions.iter().position(asked);
            let at = at.ok_or_else(|| Error::Internal("a picture without a question".into()))?;
            let latent = &latents[image * self.shape.len()..][..self.shape.len()];
            degraded.extend(seen.degraded(latent, &replies.answers[at], &replies.received[at])?);
            again.push(Question { changes: self.changes, ..questions[at] });
        }
        Ok(self.ask(&degraded, recipe.call.timestep, &again, sides.len())?.answers)
    }

    /// Decides for each picture whether its questions take the deep part's answers from an earlier step.
    fn divide(&self, questions: &mut [Question<'_>], step: usize, images: usize) {
        let Some(kept) = &self.kept else { return };
        for image in 0..images {
            let places: Vec<usize> = questions.iter().filter(|q| q.image == image).map(|q| q.place).collect();
            let deep = kept.way(step, image, &places);
            for question in questions.iter_mut().filter(|q| q.image == image) {
                question.changes = question.changes.divided(Some(deep));
            }
        }
    }

    /// The answers to questions, in their order. Those with contexts of one length are asked together.
    fn ask(
        &self,
        latents: &[f32],
        timestep: f32,
        questions: &[Question<'_>],
        images: usize,
    ) -> Result<Replies, Error> {
        let length = self.shape.len();
        let pixels = self.shape.height * self.shape.width;
        let none = || vec![Vec::new(); questions.len()];
        let mut replies = Replies { answers: none(), received: none() };
        let kind = |question: &Question<'_>| (question.text.tokens, question.changes);
        let mut kinds = Vec::new();
        for question in questions {
            if !kinds.contains(&kind(question)) {
                kinds.push(kind(question));
            }
        }
        for (tokens, changes) in kinds {
            let alike: Vec<usize> =
                (0..questions.len()).filter(|&i| kind(&questions[i]) == (tokens, changes)).collect();
            // Prompts of several parts must not need more memory than those of one.
            for group in alike.chunks(2 * images) {
                let mut sample = Vec::new();
                let mut texts = Encoded::default();
                let (mut deep, given) = (Vec::new(), changes.deep().is_some_and(|deep| deep.given));
                let latents_read = distinct(group.len(), |i| {
                    let Question { image, blind, .. } = questions[group[i]];
                    (image, blind)
                });
                for (at, Question { image, text, blind, place, .. }) in
                    group.iter().map(|&i| &questions[i]).enumerate()
                {
                    if at < latents_read {
                        let latent = &latents[image * length..(image + 1) * length];
                        self.told.join(&mut sample, latent, *image, *blind, self.shape.channels);
                    }
                    texts.append(text);
                    texts.pooled.extend(&text.pooled);
                    texts.time_ids.extend(&text.time_ids);
                    if let Some(kept) = self.kept.as_ref().filter(|_| given) {
                        kept.append(*image, *place, &mut deep);
                    }
                }
                let counts = [latents_read, group.len()];
                let output = self.run(&sample, timestep, &texts, counts, changes, &deep)?;
                for (&question, answer) in group.iter().zip(output.answers.chunks_exact(length)) {
                    replies.answers[question] = answer.to_vec();
                }
                for (&question, received) in group.iter().zip(output.received.chunks_exact(pixels)) {
                    replies.received[question] = received.to_vec();
                }
                let feature = (output.deep.len() / group.len()).max(1);
                for (&question, deep) in group.iter().zip(output.deep.chunks_exact(feature)) {
                    if let Some(kept) = &self.kept {
                        kept.keep(questions[question].image, questions[question].place, deep);
                    }
                }
            }
        }
        Ok(replies)
    }

    /// One run of the network on so many latents with so many texts of equal length, which are `texts`: those of a latent lie
    /// as many texts apart as there are latents. `deep` is what came up from the deep part for each text, where `changes` say
    /// that it is given.
    pub fn run(
        &self,
        sample: &[f32],
        timestep: f32,
        texts: &Encoded,
        [latents, batch]: [usize; 2],
        changes: Changes,
        deep: &[f32],
    ) -> Result<Output, Error> {
        let plan = self.engine.plan(PlanKey {
            network: Network::Denoise { tokens: texts.tokens / batch, texts: batch / latents, changes },
            batch,
            height: self.shape.height,
            width: self.shape.width,
            precision: self.precision,
        })?;
        let mut plan = lock(&plan);
        let timesteps = vec![timestep; latents];
        let labels = vec![self.told.label.unwrap_or_default(); latents];
        let guidance = self.told.guidance.as_deref().unwrap_or_default().repeat(latents);
        let inputs = [
            (names::SAMPLE, Data::F32(sample)),
            (names::TIMESTEP, Data::F32(&timesteps)),
            (names::CONTEXT, Data::F32(&texts.context)),
            (names::POOLED, Data::F32(&texts.pooled)),
            (names::TIME_IDS, Data::F32(&texts.time_ids)),
            (names::MASK, Data::F32(&texts.mask)),
            (names::LABEL, Data::I32(&labels)),
            (names::GUIDANCE, Data::F32(&guidance)),
            (names::DEEP, Data::F32(deep)),
        ];
        plan.run(&inputs, self.cancel)?;
        let beside = |name: &str, asked: bool| -> Result<Vec<f32>, Error> {
            if asked { Ok(plan.output(name)?.to_vec()) } else { Ok(Vec::new()) }
        };
        Ok(Output {
            answers: beside(names::OUTPUT, true)?,
            received: beside(names::RECEIVED, changes.is_watched())?,
            deep: beside(names::DEEP, changes.deep().is_some_and(|deep| !deep.given))?,
        })
    }
}

/// How many of these come before they repeat, in the same order and to the end.
fn distinct<T: PartialEq>(count: usize, of: impl Fn(usize) -> T) -> usize {
    let repeats = |period: usize| (period..count).all(|i| of(i) == of(i - period));
    (1..count).find(|&period| count.is_multiple_of(period) && repeats(period)).unwrap_or(count)
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

    /// What the parts say together, `without + sum of weight * (with - without)` (Liu et al. 2022, "Compositional visual
    /// generation with composable diffusion models"), from as many answers as there are parts.
    fn together<'b>(
        &self,
        without: Option<&Vec<f32>>,
        with: &mut impl Iterator<Item = &'b Vec<f32>>,
    ) -> Result<Vec<f32>, Error> {
        let lacks = || Error::Internal("a question without an answer".into());
        let mut answers = with.by_ref().take(self.with.len());
        let (Some(without), false) = (without, matches!(self.with[..], [(1.0, _)])) else {
            return Ok(answers.next().ok_or_else(lacks)?.clone());
        };
        let mut sum = without.clone();
        for ((weight, _), answer) in self.with.iter().zip(answers) {
            for ((sum, &with), &without) in sum.iter_mut().zip(answer).zip(without) {
                *sum += weight * (with - without);
            }
        }
        Ok(sum)
    }
}

impl Recipe<'_> {
    /// An answer about a latent whose clean part is thresholded. Where there is nothing but noise, a prediction of noise
    /// says nothing of the clean part and stays as it is.
    fn thresholded(
        &self,
        threshold: &PercentileThreshold,
        latent: &[f32],
        answer: Vec<f32>,
    ) -> Result<Vec<f32>, Error> {
        let (prediction, level) = (self.prediction, self.call.level);
        if prediction == Prediction::Epsilon && level.alpha == 0.0 {
            return Ok(answer);
        }
        let mut clean = prediction.x0(latent, &answer, level);
        threshold.apply(&mut clean)?;
        Ok(Prediction::Sample.convert(prediction, latent, &clean, level))
    }

    /// The answers without and with the prompt as one.
    fn guide(&self, without: &[f32], with: &[f32], channels: usize) -> Result<Vec<f32>, Error> {
        let scale = if self.guided { self.guidance.scale } else { 1.0 };
        match &self.options.threshold {
            Some(threshold) if self.guided => {
                let (step, steps) = (self.call.step, self.call.steps);
                Ok(threshold.combine(without, with, channels, 1, f64::from(scale), step, steps)?)
            }
            _ => Ok(Guidance::new(scale).combine(&[without, with].concat(), 1)?),
        }
    }
}
