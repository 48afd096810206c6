//! Samplers whose parts are nodes of their own: `SamplerCustom` and `SamplerCustomAdvanced`.

use serde_json::{Map, Value};
use velatura_samplers::{Spacing, find_spacing};

use super::graph::Reader;
use super::{LONGEST_WAY, target};

/// Where the prompts and the model of a sampler come from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked<'a> {
    pub positive: Option<&'a Value>,
    pub negative: Option<&'a Value>,
    pub model: Option<&'a Value>,
}

impl<'a> Asked<'a> {
    /// Those of a node that has them as inputs.
    pub fn of(inputs: &'a Map<String, Value>) -> Self {
        let [positive, negative, model] = ["positive", "negative", "model"].map(|key| inputs.get(key));
        Asked { positive, negative, model }
    }
}

/// ComfyUI's own bounds of `KarrasScheduler` and its kin: those of Stable Diffusion.
const SIGMA_MAX: f64 = 14.614_642;
const SIGMA_MIN: f64 = 0.029_167_5;

impl<'a> Reader<'a> {
    /// What the nodes around a custom sampler say.
    pub fn custom(&mut self, id: &'a str) -> Asked<'a> {
        let advanced = self.class(id) == Some("SamplerCustomAdvanced");
        let (seed, asked) = if advanced {
            (self.noise(id), self.guider(id))
        } else {
            self.out.request.guidance = self.number(id, "cfg").map(|v| v as f32);
            if self.value(self.input(id, "add_noise")).and_then(Value::as_bool) == Some(false) {
                self.leave("a run that adds no noise");
            }
            let inputs = self.inputs(id);
            (self.value(self.input(id, "noise_seed")), inputs.map(Asked::of).unwrap_or_default())
        };
        self.out.request.seed = seed.and_then(Value::as_u64);
        if self.out.request.seed.is_none() {
            self.leave("the seed, which another node computes");
        }
        self.sampler_node(id);
        self.sigmas(id);
        asked
    }

    fn node(&self, id: &str, key: &str) -> Option<(&'a str, &'a str)> {
        let node = target(self.input(id, key)?)?;
        Some((node, self.class(node).unwrap_or("unknown")))
    }

    fn number(&self, id: &str, key: &str) -> Option<f64> {
        self.value(self.input(id, key)).and_then(Value::as_f64)
    }

    fn word(&self, id: &str, key: &str) -> Option<&'a str> {
        self.value(self.input(id, key)).and_then(Value::as_str)
    }

    fn noise(&mut self, id: &'a str) -> Option<&'a Value> {
        let (node, class) = self.node(id, "noise")?;
        if class == "DisableNoise" {
            self.leave("a run that adds no noise");
        }
        ["noise_seed", "seed"].iter().find_map(|key| self.value(self.input(node, key)))
    }

    fn guider(&mut self, id: &'a str) -> Asked<'a> {
        let Some((node, class)) = self.node(id, "guider") else { return Asked::default() };
        let model = self.input(node, "model");
        let (guidance, positive, negative) = match class {
            "BasicGuider" => (Some(1.0), self.input(node, "conditioning"), None),
            "DualCFGGuider" => {
                self.leave("a second prompt and its guidance, of the node DualCFGGuider");
                (self.number(node, "cfg_conds"), self.input(node, "cond1"), self.input(node, "negative"))
            }
            _ => {
                if class != "CFGGuider" {
                    self.leave(format!("the node {class}"));
                }
                (self.number(node, "cfg"), self.input(node, "positive"), self.input(node, "negative"))
            }
        };
        self.out.request.guidance = guidance.map(|v| v as f32);
        Asked { positive, negative, model }
    }

    /// The sampler and its options.
    fn sampler_node(&mut self, id: &'a str) {
        let Some((node, class)) = self.node(id, "sampler") else { return };
        let gpu = if self.word(node, "noise_device") == Some("cpu") { "" } else { "_gpu" };
        let name = match class {
            "KSamplerSelect" => self.word(node, "sampler_name").map(String::from),
            "SamplerEulerAncestral" => Some("euler_ancestral".into()),
            "SamplerEulerAncestralCFGPP" => Some("euler_ancestral_cfg_pp".into()),
            "SamplerDPMPP_2S_Ancestral" => Some("dpmpp_2s_ancestral".into()),
            "SamplerDPMPP_SDE" => Some(format!("dpmpp_sde{gpu}")),
            "SamplerDPMPP_2M_SDE" if self.word(node, "solver_type") == Some("heun") => {
                Some(format!("dpmpp_2m_sde_heun{gpu}"))
            }
            "SamplerDPMPP_2M_SDE" => Some(format!("dpmpp_2m_sde{gpu}")),
            "SamplerDPMPP_3M_SDE" => Some(format!("dpmpp_3m_sde{gpu}")),
            "SamplerLMS" => Some("lms".into()),
            "SamplerDPMAdaptative" => Some("dpm_adaptive".into()),
            "SamplerER_SDE" => Some("er_sde".into()),
            "SamplerSASolver" => Some("sa_solver".into()),
            _ => None,
        };
        if name.is_none() {
            self.leave(format!("the sampler of the node {class}"));
        }
        self.out.request.sampler = name;
        // What these nodes are set to unless somebody changes it is what the samplers do here.
        let usual = [
            ("order", if class == "SamplerLMS" { 4.0 } else { 3.0 }),
            ("rtol", 0.05),
            ("atol", 0.0078),
            ("h_init", 0.05),
            ("pcoeff", 0.0),
            ("icoeff", 1.0),
            ("dcoeff", 0.0),
            ("accept_safety", 0.81),
            ("r", 0.5),
            ("max_stage", 3.0),
            ("sde_start_percent", 0.2),
            ("sde_end_percent", 0.8),
            ("predictor_order", 3.0),
            ("corrector_order", 4.0),
        ];
        for (key, value) in usual {
            if let Some(given) = self.number(node, key).filter(|given| *given != value) {
                self.leave(format!("{key} {given} of the node {class}"));
            }
        }
        if class == "SamplerER_SDE"
            && let Some(other) = self.word(node, "solver_type").filter(|kind| *kind != "ER-SDE")
        {
            self.leave(format!("the kind {other} of the node {class}"));
        }
        let (eta, s_noise) = (self.number(node, "eta"), self.number(node, "s_noise"));
        let default = if class == "SamplerDPMAdaptative" { 0.0 } else { 1.0 };
        let options = &mut self.out.request.sampling;
        options.eta = eta.filter(|eta| *eta != default && class != "SamplerER_SDE");
        options.s_noise = s_noise.filter(|noise| *noise != 1.0);
        if let Some(more) = options.eta.take_if(|eta| *eta > 1.0) {
            self.leave(format!("eta {more} of the node {class} (at most 1 here)"));
        }
    }

    /// The noise levels, by name or by number.
    fn sigmas(&mut self, id: &'a str) {
        let mut at = self.node(id, "sigmas");
        for _ in 0..LONGEST_WAY {
            let Some((node, class)) = at else { break };
            self.out.request.steps = self.number(node, "steps").map(|steps| steps as u32);
            let schedule = match class {
                "BasicScheduler" => self.word(node, "scheduler"),
                "KarrasScheduler" => Some("karras"),
                "ExponentialScheduler" => Some("exponential"),
                "PolyexponentialScheduler" => Some("polyexponential"),
                "SDTurboScheduler" => Some("turbo"),
                "AlignYourStepsScheduler" if self.word(node, "model_type") == Some("SDXL") => {
                    Some("ays_sdxl")
                }
                "AlignYourStepsScheduler" => Some("ays"),
                "BetaSamplingScheduler" => {
                    for key in ["alpha", "beta"] {
                        if let Some(given) = self.number(node, key).filter(|given| *given != 0.6) {
                            self.leave(format!("{key} {given} of the node {class}"));
                        }
                    }
                    Some("beta")
                }
                "ManualSigmas" => {
                    self.listed(node);
                    return;
                }
                _ => None,
            };
            if let Some(schedule) = schedule {
                self.out.request.schedule = Some(schedule.into());
                let denoise = self.number(node, "denoise");
                self.denoise(denoise);
                self.bounds(node);
                return;
            }
            self.leave(format!("the node {class}"));
            at = self.node(node, "sigmas");
        }
        if self.out.request.schedule.is_none() {
            self.leave("the schedule, which another node computes");
        }
    }

    /// Levels between bounds and by an exponent of the node's own.
    fn bounds(&mut self, node: &'a str) {
        let (most, least) = (self.number(node, "sigma_max"), self.number(node, "sigma_min"));
        let rho = self.number(node, "rho");
        let request = &mut self.out.request;
        let spacing = request.schedule.as_deref().and_then(|name| find_spacing(name).ok()).map(|e| e.spacing);
        let usual = if spacing == Some(Spacing::Karras) { 7.0 } else { 1.0 };
        request.sampling.rho = rho.filter(|rho| *rho != usual);
        let (Some(spacing), Some(most), Some(least), Some(steps)) = (spacing, most, least, request.steps)
        else {
            return;
        };
        if (most, least) != (SIGMA_MAX, SIGMA_MIN) {
            // As many as a request may list; more are refused with the number of its steps.
            let levels =
                spacing.between(most, least, steps.min(crate::request::MOST_STEPS + 1) as usize, rho);
            request.sampling.sigmas = levels.unwrap_or_default();
            if !request.sampling.sigmas.is_empty() {
                (request.steps, request.schedule, request.sampling.rho) = (None, None, None);
            }
        }
    }

    /// Levels that are written one by one; ComfyUI takes every number in the text.
    fn listed(&mut self, node: &'a str) {
        let text = self.word(node, "sigmas").unwrap_or_default();
        let numbers = text.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+'));
        self.out.request.sampling.sigmas = numbers.filter_map(|number| number.parse().ok()).collect();
        self.out.request.steps = None;
    }
}
