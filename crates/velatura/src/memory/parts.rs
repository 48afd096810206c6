//! The networks that a run needs, in which sizes and how often.

use std::collections::{BTreeSet, HashMap};

use velatura_text::prompt::Dialect;

use super::choose::group_sizes;
use crate::Error;
use crate::engine::Engine;
use crate::networks::{Changes, Deep, Network};
use crate::pipeline::{Job, TILE, Tiles};
use crate::plans::PlanKey;
use crate::request::{DeepCache, Precision, Settings};

/// When a network is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Encode,
    Denoise,
    Decode,
}

/// A network in all sizes that a run wants.
pub(super) struct Part {
    pub name: String,
    pub kind: Kind,
    pub precision: Precision,
    /// Of packed weights, each.
    pub packed: Vec<u64>,
    /// Of weights that are kept as they are.
    pub raw: u64,
    /// Of the activations, for each of the sizes of groups.
    pub activations: Vec<u64>,
    /// Of all sizes together.
    pub all_activations: u64,
    pub flops: f64,
    /// How often its weights are read.
    pub calls: u64,
}

/// What is to be decided about a run.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub tiled: bool,
    pub together: usize,
    pub precision: Precision,
}

/// The networks of a run, a refiner's as well.
pub(super) fn parts(
    engine: &Engine,
    settings: &Settings,
    jobs: &[Job],
    reads_pictures: bool,
    choice: Choice,
) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::new();
    let own = Collect { engine, settings, jobs, choice, owner: "" };
    own.texts(&mut parts)?;
    if let Some(refiner) = engine.refiner() {
        Collect { engine: refiner, owner: "refiner's ", ..own }.texts(&mut parts)?;
    }
    if reads_pictures {
        own.autoencoder(Kind::Encode, &mut parts)?;
    }
    own.denoiser(&mut parts)?;
    if let Some(refiner) = engine.refiner() {
        Collect { engine: refiner, owner: "refiner's ", ..own }.denoiser(&mut parts)?;
    }
    own.autoencoder(Kind::Decode, &mut parts)?;
    Ok(parts)
}

#[derive(Clone, Copy)]
struct Collect<'a> {
    engine: &'a Engine,
    settings: &'a Settings,
    jobs: &'a [Job],
    choice: Choice,
    owner: &'a str,
}

impl Collect<'_> {
    /// A part of plans; each comes with how often it runs and the group that it belongs to.
    fn part(
        &self,
        name: &str,
        kind: Kind,
        precision: Precision,
        plans: &[(PlanKey, f64, usize)],
    ) -> Result<Part, Error> {
        let (mut packed, mut raw, mut flops, mut calls) = (Vec::new(), 0, 0.0, 0.0);
        let mut activations: Vec<u64> = Vec::new();
        let mut all = Vec::new();
        let mut weights = HashMap::new();
        for &(key, times, group) in plans {
            let needs = self.engine.needs(key)?;
            flops += needs.flops * times + needs.prelude_flops;
            calls += times;
            weights.extend(needs.weights.iter().map(|(form, bytes)| (form.clone(), *bytes as u64)));
            activations.resize(activations.len().max(group + 1), 0);
            activations[group] += needs.arena as u64;
            if !all.contains(&key) {
                all.push(key);
            }
        }
        let mut all_activations = 0;
        for key in all {
            all_activations += self.engine.needs(key)?.arena as u64;
        }
        for ((_, form), bytes) in weights {
            match form {
                velatura_cpu::Form::Raw => raw += bytes,
                _ => packed.push(bytes),
            }
        }
        packed.sort_unstable();
        Ok(Part {
            name: format!("{}{name}", self.owner),
            kind,
            precision: plans.first().map_or(precision, |(key, ..)| key.network.precision(precision)),
            packed,
            raw,
            activations,
            all_activations,
            flops,
            calls: calls as u64,
        })
    }

    fn texts(&self, parts: &mut Vec<Part>) -> Result<(), Error> {
        let count = self.engine.manifest().text_encoders.len();
        let chunks: usize = self.texts_of(0)?.iter().flatten().map(|text| text.chunks).sum();
        for encoder in 0..count {
            let network = Network::Text { encoder, clip_skip: self.settings.clip_skip, replaced: false };
            let key = PlanKey { network, batch: 1, height: 0, width: 0, precision: Precision::F32 };
            let name = match encoder {
                0 => "text encoder".to_string(),
                n => format!("text encoder {}", n + 1),
            };
            parts.push(self.part(&name, Kind::Text, Precision::F32, &[(key, chunks as f64, 0)])?);
        }
        Ok(())
    }

    /// The texts of the negative prompt and of the prompt of a job.
    fn texts_of(&self, job: usize) -> Result<[Vec<Text>; 2], Error> {
        let Some(job) = self.jobs.get(job) else { return Ok([Vec::new(), Vec::new()]) };
        let manifest = self.engine.manifest();
        let read = |text: &str, negative: bool| -> Result<Vec<Text>, Error> {
            // As where prompts are encoded.
            let zeros = manifest.zeros_for_empty_prompt && self.settings.prompts.dialect == Dialect::A1111;
            if negative && text.is_empty() && zeros {
                return Ok(vec![Text { tokens: manifest.context(), chunks: 0 }]);
            }
            let reader = self.engine.reader(self.settings.prompts, self.settings.calls());
            let reading = reader.read(text, negative)?;
            let part = |part: &crate::prompt::Part| {
                let tokens = |text: &Vec<crate::prompt::Chunk>| -> usize {
                    text.iter().filter_map(|chunk| chunk.first()).map(|t| t.encoding.ids.len()).sum()
                };
                Text {
                    tokens: part.texts.first().map_or(0, tokens),
                    chunks: part.texts.iter().map(Vec::len).sum(),
                }
            };
            Ok(reading.parts.iter().map(part).collect())
        };
        Ok([read(&job.request.negative, true)?, read(&job.request.prompt, false)?])
    }

    fn denoiser(&self, parts: &mut Vec<Part>) -> Result<(), Error> {
        let Settings { guidance, plan, .. } = self.settings;
        let manifest = self.engine.manifest();
        let steps = plan.len();
        let guided = (0..steps).any(|step| guidance.active(step, steps));
        let twice = manifest.task() == Some(crate::Task::Edit) && self.settings.image_guidance != 1.0;
        // Many jobs differ in their prompts; those of unlike lengths are few.
        let mut asked: Vec<[Vec<Text>; 2]> = Vec::new();
        for job in 0..self.jobs.len().min(if self.same_prompt() { 1 } else { usize::MAX }) {
            let texts = self.texts_of(job)?;
            if !asked.contains(&texts) {
                asked.push(texts);
            }
        }
        let factor = manifest.latent_factor() as usize;
        let (height, width) = (self.settings.height / factor, self.settings.width / factor);
        let groups = group_sizes(self.jobs.len(), self.choice.together);
        let mut sizes = groups.clone();
        sizes.dedup();
        let changes = Changes::freeu(self.settings.freeu);
        let options = &self.settings.guidance_options;
        let watched = options.self_attention.is_some() && manifest.unet.can_be_watched();
        let perturbed = options.perturbed_attention.as_ref();
        let perturbed = perturbed.map_or(0, |perturbed| perturbed.of(&manifest.unet));
        let cache =
            self.settings.deepcache.filter(|cache| (cache.branch as usize) < manifest.unet.branches());
        // All of the network and the shallow part alone, each with its share of the steps.
        let ways = match cache {
            None => vec![(None, 1.0)],
            Some(DeepCache { interval, branch }) => {
                let full = steps.div_ceil(interval as usize) as f64 / steps.max(1) as f64;
                let deep = |given| Some(Deep { branch: branch as usize, given });
                vec![(deep(false), full), (deep(true), 1.0 - full)]
            }
        };
        let mut plans: Vec<(PlanKey, f64, usize)> = Vec::new();
        for (group, &images) in sizes.iter().enumerate() {
            let alike = groups.iter().filter(|&&g| g == images).count();
            let calls = (self.settings.calls() * alike) as f64;
            for [negative, prompt] in &asked {
                let alone = prompt.len() == 1;
                let unguided: &[Text] = if guided || twice || !alone { negative } else { &[] };
                let lengths: BTreeSet<usize> =
                    unguided.iter().take(1).chain(prompt).map(|text| text.tokens).collect();
                for tokens in lengths {
                    let without = unguided.iter().take(1).filter(|text| text.tokens == tokens).count();
                    let with = prompt.iter().filter(|text| text.tokens == tokens).count();
                    let usual =
                        (changes.watching(watched), images * (without * (1 + usize::from(twice)) + with));
                    let away = (changes.perturbed(perturbed), images * with);
                    let batches = |(changes, count): (Changes, usize)| {
                        let whole = (0..count).step_by(2 * images);
                        whole.map(move |at| (changes, (2 * images).min(count - at)))
                    };
                    let away = Some(away).filter(|_| perturbed != 0);
                    // About the degraded latent, with the text of the answer that it is compared with.
                    let first = unguided.first().or(prompt.first());
                    let again = first.is_some_and(|text| text.tokens == tokens).then_some((changes, images));
                    let more = away.into_iter().chain(again.filter(|_| watched));
                    for (changes, batch) in batches(usual).chain(more.flat_map(batches)) {
                        // Without and with the prompt, where no channels beside the latent differ.
                        let pair = batch == 2 * images && [without, with] == [1, 1] && !twice;
                        let texts = if pair { 2 } else { 1 };
                        let precision = self.choice.precision;
                        for &(deep, share) in ways.iter().filter(|(_, share)| *share > 0.0) {
                            let network = Network::Denoise { tokens, texts, changes: changes.divided(deep) };
                            let key = PlanKey { network, batch, height, width, precision };
                            match plans.iter_mut().find(|(k, _, g)| *k == key && *g == group) {
                                Some((_, times, _)) => *times += calls * share,
                                None => plans.push((key, calls * share, group)),
                            }
                        }
                    }
                }
            }
        }
        let mut part = self.part("denoiser", Kind::Denoise, self.choice.precision, &plans)?;
        if let Some(cache) = cache {
            // What is kept of the deep part, and once more on its way into the network.
            let shape = manifest.unet.deep_shape(cache.branch as usize, [1, height, width]);
            let each = shape.map_or(0, |shape| shape.iter().product::<usize>() * size_of::<f32>() * 2) as u64;
            let most = asked.iter().map(|[_, prompt]| 1 + usize::from(twice) + prompt.len()).max();
            let of_group = |images: usize| (images * most.unwrap_or_default()) as u64 * each;
            for (activations, &images) in part.activations.iter_mut().zip(&sizes) {
                *activations += of_group(images);
            }
            part.all_activations += of_group(sizes.iter().copied().max().unwrap_or_default());
        }
        parts.push(part);
        Ok(())
    }

    fn same_prompt(&self) -> bool {
        let prompt = |job: &Job| (job.request.prompt.clone(), job.request.negative.clone());
        self.jobs.windows(2).all(|two| prompt(&two[0]) == prompt(&two[1]))
    }

    fn autoencoder(&self, kind: Kind, parts: &mut Vec<Part>) -> Result<(), Error> {
        let factor = self.engine.manifest().latent_factor() as usize;
        let (height, width) = (self.settings.height / factor, self.settings.width / factor);
        let tiles = match self.choice.tiled {
            true => Tiles::new(height, width, (TILE / factor).max(1)),
            false => Tiles::whole(height, width),
        };
        let (network, name, times) = match kind {
            Kind::Encode => (Network::Encode, "VAE encoder", 1),
            _ => (Network::Decode, "VAE decoder", self.jobs.len()),
        };
        let precision = self.choice.precision;
        let Some(tile) = tiles.all().next() else { return Ok(()) };
        let key = PlanKey { network, batch: 1, height: tile.height, width: tile.width, precision };
        let times = (tiles.all().count() * times) as f64;
        parts.push(self.part(name, kind, precision, &[(key, times, 0)])?);
        Ok(())
    }
}

/// A text as the planner sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Text {
    tokens: usize,
    /// Runs of the text transformer.
    chunks: usize,
}
