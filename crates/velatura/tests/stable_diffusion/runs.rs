//! A tiny Stable Diffusion 1.5, and runs of it of which a fixture holds the final latents.

use velatura::{CancelToken, Engine, EngineOptions, GenerateRequest};

use crate::parity::error;
use crate::pipelines::Expected;

pub fn latents(engine: &Engine, request: &GenerateRequest) -> Vec<f32> {
    engine.latents(request, &mut |_| (), &CancelToken::default()).unwrap().concat()
}

/// The fixture's case `sd15`, opened from a folder.
pub struct Fixture {
    pub expected: Expected,
    pub engine: Engine,
    pub _temporary: tempfile::TempDir,
}

impl Fixture {
    pub fn open(expected: Expected) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("sd15");
        expected.case("sd15").write_folder(&folder);
        let options = EngineOptions { threads: Some(2), ..EngineOptions::default() };
        let engine = Engine::open(&folder, options).unwrap();
        Fixture { expected, engine, _temporary: temporary }
    }

    pub fn request(&self, run: &str) -> GenerateRequest {
        self.expected.case("sd15").request(run)
    }

    /// Holds every run against the fixture, and that all but `plain` are at least so far from `plain`; what the metadata
    /// holds makes the same picture.
    pub fn check(&self, apart: f32) {
        let plain = self.expected.numbers("sd15/plain");
        for run in self.expected.case("sd15").runs.keys() {
            let request = self.request(run);
            let wanted = self.expected.numbers(&format!("sd15/{run}"));
            let difference = error(&latents(&self.engine, &request), &wanted);
            println!("{run}: {difference:.1e}, {:.3} from plain", error(&wanted, &plain));
            assert!(difference < 1e-3, "{run}: {difference}");
            assert!(run == "plain" || error(&wanted, &plain) > apart, "{run} is nothing but plain");
            let again = GenerateRequest::from_json(&serde_json::to_string(&request).unwrap()).unwrap();
            assert_eq!(again, request);
            let resolved = self.engine.resolve(&request).unwrap();
            assert_eq!(self.engine.resolve(&resolved).unwrap(), resolved);
        }
    }
}
