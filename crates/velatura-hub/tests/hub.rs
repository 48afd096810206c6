//! The hub against a small server that plays it: what is asked, what is kept, and what becomes of a download that is cut
//! off.

mod server;

use std::path::Path;
use std::time::Duration;

use server::{Fault, PlayedHub};
use velatura_hub::{Event, Hub, HubError, HubName, HubSettings, cached};

fn hub(server: &PlayedHub, cache: &Path) -> Hub {
    Hub::new(settings(server, cache))
}

fn settings(server: &PlayedHub, cache: &Path) -> HubSettings {
    HubSettings {
        endpoint: server.address(),
        cache: cache.to_path_buf(),
        token: None,
        offline: false,
        pause: Duration::from_millis(1),
        stall: Duration::from_secs(30),
    }
}

fn name(text: &str) -> HubName {
    HubName::parse(text).unwrap()
}

/// Bytes that are nowhere the same.
fn noise(bytes: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// A diffusers folder with more in it than is needed.
fn pipeline(server: &PlayedHub) {
    for (path, bytes) in [
        ("model_index.json", b"{}".to_vec()),
        ("unet/config.json", b"{\"a\": 1}".to_vec()),
        ("scheduler/scheduler_config.json", b"{}".to_vec()),
        ("README.md", b"words".to_vec()),
    ] {
        server.put(path, bytes, false);
    }
    for path in [
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.safetensors",
    ] {
        server.put(path, noise(300_000 + path.len(), path.len() as u32), true);
    }
}

const UNET: &str = "unet/diffusion_pytorch_model.fp16.safetensors";

fn no_one(_: Event<'_>) {}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let (server, cache) = (PlayedHub::start("owner/model"), tempfile::tempdir().unwrap());
    pipeline(&server);
    server.fault(UNET, Fault::StallAt(100_000));
    let impatient = HubSettings { stall: Duration::from_millis(500), ..settings(&server, cache.path()) };
    let began = std::time::Instant::now();
    let error = Hub::new(impatient).fetch(&name("owner/model"), &mut no_one).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(matches!(error, HubError::Download { .. }) && error.to_string().contains(UNET), "{error}");
    assert!(error.to_string().contains("nothing came for 0.5 s"), "{error}");
}

#[test]
fn a_folder_is_fetched_once_and_only_what_is_needed() {
    let (server, cache) = (PlayedHub::start("owner/model"), tempfile::tempdir().unwrap());
    pipeline(&server);
    let hub = hub(&server, cache.path());
    let mut seen = Vec::new();
    let mut started = None;
    let path = hub
        .fetch(&name("owner/model"), &mut |event| match event {
            Event::Bytes(bytes) => seen.push(bytes),
            Event::Started { files, bytes } => started = Some((files, bytes)),
            _ => {}
        })
        .unwrap();
    assert_eq!(path, cache.path().join("models--owner--model/snapshots").join(server.commit()));
    for file in ["model_index.json", "unet/config.json", UNET, "vae/diffusion_pytorch_model.safetensors"] {
        assert_eq!(std::fs::read(path.join(file)).unwrap(), server.bytes(file), "{file}");
    }
    for file in ["README.md", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors"]
    {
        assert!(!path.join(file).exists(), "{file}");
    }
    let (files, bytes) = started.unwrap();
    assert_eq!((files, *seen.last().unwrap()), (5, bytes));
    assert!(seen.windows(2).all(|w| w[0] <= w[1]), "{seen:?}");
    assert_eq!(
        std::fs::read_to_string(cache.path().join("models--owner--model/refs/main")).unwrap(),
        server.commit()
    );

    // The second time only the list is asked for.
    server.forget();
    assert_eq!(hub.fetch(&name("owner/model"), &mut no_one).unwrap(), path);
    assert_eq!(server.asked().len(), 1, "{:?}", server.asked());
    let listed = cached(cache.path());
    assert_eq!((listed.len(), listed[0].name.as_str(), &listed[0].path), (1, "owner/model", &path));

    // A new commit with the same large files downloads only what is new.
    server.put("unet/config.json", b"{\"a\": 2}".to_vec(), false);
    server.move_to("c0ffee0000000000000000000000000000000002");
    server.forget();
    let path = hub.fetch(&name("owner/model"), &mut no_one).unwrap();
    assert_eq!(std::fs::read(path.join(UNET)).unwrap(), server.bytes(UNET));
    assert_eq!(std::fs::read(path.join("unet/config.json")).unwrap(), b"{\"a\": 2}");
    assert!(!server.asked().iter().any(|asked| asked.starts_with("/cdn") && !asked.ends_with("bytes=0-0")));
}

#[test]
fn a_download_that_is_cut_off_goes_on() {
    let (server, cache) = (PlayedHub::start("owner/model"), tempfile::tempdir().unwrap());
    pipeline(&server);
    for at in [1, 100_000, 150_000] {
        server.fault(UNET, Fault::CutAt(at));
    }
    let path = hub(&server, cache.path()).fetch(&name("owner/model"), &mut no_one).unwrap();
    assert_eq!(std::fs::read(path.join(UNET)).unwrap(), server.bytes(UNET));
    // Each try asked for the rest only.
    let ranges: Vec<String> =
        server.asked().into_iter().filter(|a| a.contains(UNET) && a.starts_with("/cdn")).collect();
    for from in [1, 100_001] {
        assert!(ranges.iter().any(|r| r.ends_with(&format!("bytes={from}-"))), "{from}: {ranges:?}");
    }
    assert!(server.faults_left(UNET).is_empty());
}

#[test]
fn what_cannot_be_completed_is_not_taken_for_whole_and_goes_on_next_time() {
    let (server, cache) = (PlayedHub::start("owner/model"), tempfile::tempdir().unwrap());
    pipeline(&server);
    server.fault(UNET, Fault::CutAt(200_000));
    (0..20).for_each(|_| server.fault(UNET, Fault::CutAt(0)));
    let hub = hub(&server, cache.path());
    let error = hub.fetch(&name("owner/model"), &mut no_one).unwrap_err();
    assert!(matches!(error, HubError::Download { .. }) && error.to_string().contains(UNET), "{error}");
    let snapshot = cache.path().join("models--owner--model/snapshots").join(server.commit());
    assert!(!snapshot.join(UNET).exists());
    assert!(hub.in_cache(&name("owner/model")).is_none_or(|path| !path.join(UNET).exists()));

    server.heal();
    server.forget();
    let path = hub.fetch(&name("owner/model"), &mut no_one).unwrap();
    assert_eq!(std::fs::read(path.join(UNET)).unwrap(), server.bytes(UNET));
    assert!(
        server.asked().iter().any(|a| a.contains(UNET) && a.ends_with("bytes=200000-")),
        "{:?}",
        server.asked()
    );
}

#[test]
fn a_server_without_ranges_and_a_wrong_byte_end_well() {
    let (server, cache) = (PlayedHub::start("owner/model"), tempfile::tempdir().unwrap());
    pipeline(&server);
    server.fault(UNET, Fault::CutAt(1000));
    // The rest is asked for and all of it comes: too long, so it is thrown away.
    server.fault(UNET, Fault::NoRange);
    server.fault(UNET, Fault::WrongByte);
    server.fault(UNET, Fault::NoLength(5000));
    let path = hub(&server, cache.path()).fetch(&name("owner/model"), &mut no_one).unwrap();
    assert_eq!(std::fs::read(path.join(UNET)).unwrap(), server.bytes(UNET));
    assert!(server.faults_left(UNET).is_empty());
}

#[test]
fn a_finished_part_and_a_false_blob_are_no_trap() {
    let (server, cache) = (PlayedHub::start("owner/model"), tempfile::tempdir().unwrap());
    pipeline(&server);
    let blobs = cache.path().join("models--owner--model/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let tag = server.tag(UNET);
    std::fs::write(blobs.join(format!("{tag}.part")), server.bytes(UNET)).unwrap();
    let mut wrong = server.bytes(UNET);
    wrong[5] ^= 1;
    std::fs::write(blobs.join(&tag), wrong).unwrap();
    let path = hub(&server, cache.path()).fetch(&name("owner/model"), &mut no_one).unwrap();
    assert_eq!(std::fs::read(path.join(UNET)).unwrap(), server.bytes(UNET));
}

#[test]
fn tokens_and_refusals() {
    let (server, cache) = (PlayedHub::start("owner/secret"), tempfile::tempdir().unwrap());
    server.put("dream.safetensors", noise(1000, 3), true);
    server.demand("hf_word");
    let with = |token: Option<&str>| {
        Hub::new(HubSettings { token: token.map(String::from), ..settings(&server, cache.path()) })
    };
    let says = with(None).fetch(&name("owner/secret"), &mut no_one).unwrap_err().to_string();
    assert!(says.contains("owner/secret") && says.contains("HF_TOKEN"), "{says}");
    let says = with(Some("hf_other")).fetch(&name("owner/secret"), &mut no_one).unwrap_err().to_string();
    assert!(says.contains("accept them at") && says.contains("/owner/secret"), "{says}");
    let path = with(Some("hf_word")).fetch(&name("owner/secret"), &mut no_one).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), noise(1000, 3));
    assert!(path.ends_with("dream.safetensors"));
    let says = with(Some("hf_word")).fetch(&name("owner/nothing"), &mut no_one).unwrap_err().to_string();
    assert!(says.contains("has no owner/nothing"), "{says}");
    let says = with(Some("hf_word")).fetch(&name("owner/secret/dreem.safetensors"), &mut no_one).unwrap_err();
    assert!(says.to_string().contains("dream.safetensors"), "{says}");
    let says = with(Some("hf_word")).fetch(&name("owner/secret@v2"), &mut no_one).unwrap_err().to_string();
    assert!(says.contains("owner/secret@v2"), "{says}");
}

#[test]
fn without_the_hub_the_cache_serves() {
    let (server, cache) = (PlayedHub::start("owner/model"), tempfile::tempdir().unwrap());
    server.put("dream.safetensors", noise(1000, 3), true);
    let path = hub(&server, cache.path()).fetch(&name("owner/model"), &mut no_one).unwrap();
    let offline = Hub::new(HubSettings { offline: true, ..settings(&server, cache.path()) });
    server.forget();
    assert_eq!(offline.fetch(&name("owner/model"), &mut no_one).unwrap(), path);
    let says = offline.fetch(&name("owner/other"), &mut no_one).unwrap_err().to_string();
    assert!(says.contains("owner/other") && says.contains("HF_HUB_OFFLINE"), "{says}");
    assert!(server.asked().is_empty());

    // Nobody listens there any more.
    let gone = HubSettings { endpoint: "http://127.0.0.1:9".into(), ..settings(&server, cache.path()) };
    let mut remarks = Vec::new();
    let found = Hub::new(gone.clone()).fetch(&name("owner/model"), &mut |event| {
        if let Event::Remark(text) = event {
            remarks.push(text.to_string());
        }
    });
    assert_eq!(found.unwrap(), path);
    assert!(remarks.len() == 1 && remarks[0].contains("cannot be reached"), "{remarks:?}");
    let says = Hub::new(gone).fetch(&name("owner/other"), &mut no_one).unwrap_err().to_string();
    assert!(says.contains("127.0.0.1:9") && says.contains("HF_ENDPOINT"), "{says}");
}

#[test]
fn a_hostile_hub_writes_nowhere_else() {
    for (fault, says) in [
        (Fault::Tag("../../../escaped".into()), "has the tag"),
        (Fault::Commit("../../escaped".into()), "at commit"),
    ] {
        let (server, outer) = (PlayedHub::start("owner/model"), tempfile::tempdir().unwrap());
        let cache = outer.path().join("a/cache");
        server.put("dream.safetensors", noise(1000, 3), true);
        server.fault("dream.safetensors", fault);
        let error = hub(&server, &cache).fetch(&name("owner/model"), &mut no_one).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        let outside: Vec<_> =
            std::fs::read_dir(outer.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(outside.is_empty() || outside == ["a"], "{outside:?}");
    }
    let (server, cache) = (PlayedHub::start("owner/model"), tempfile::tempdir().unwrap());
    server.put("model_index.json", b"{}".to_vec(), false);
    server.put("unet/diffusion_pytorch_model-..-of-00001.safetensors", b"x".to_vec(), false);
    server.move_to("../../escaped");
    let error = hub(&server, cache.path()).fetch(&name("owner/model"), &mut no_one).unwrap_err().to_string();
    assert!(error.contains("commit"), "{error}");
}
