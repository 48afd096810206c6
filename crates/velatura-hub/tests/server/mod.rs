//! A hub of one repository on this machine: its list of files, their tags, redirects of large files, ranges, and faults
//! on demand.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

/// What goes wrong with the next answer that carries a file's bytes.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection is closed after so many bytes.
    CutAt(usize),
    /// The same, and nothing said how many there would be.
    NoLength(usize),
    /// Nothing comes after so many bytes, and the connection stays open.
    StallAt(usize),
    /// All of it is sent though only the rest was asked for.
    NoRange,
    /// One byte is another.
    WrongByte,
    /// The tag is this.
    Tag(String),
    /// The commit is this.
    Commit(String),
}

/// The header of an answer whose rest never comes.
const STALLS: &str = "X-Stalls";

struct File {
    bytes: Vec<u8>,
    large: bool,
}

#[derive(Default)]
struct State {
    address: String,
    repository: String,
    commit: String,
    token: Option<String>,
    files: BTreeMap<String, File>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    asked: Vec<String>,
}

/// The server; it serves until the test's process ends.
pub struct PlayedHub {
    address: String,
    state: Arc<Mutex<State>>,
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl PlayedHub {
    pub fn start(repository: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            address: address.clone(),
            repository: repository.into(),
            commit: "c0ffee0000000000000000000000000000000001".into(),
            ..State::default()
        }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || drop(serve(&stream, &state)));
            }
        });
        PlayedHub { address, state }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    pub fn commit(&self) -> String {
        self.with(|s| s.commit.clone())
    }

    pub fn move_to(&self, commit: &str) {
        self.with(|s| s.commit = commit.into());
    }

    pub fn put(&self, path: &str, bytes: Vec<u8>, large: bool) {
        self.with(|s| s.files.insert(path.into(), File { bytes, large }));
    }

    pub fn bytes(&self, path: &str) -> Vec<u8> {
        self.with(|s| s.files[path].bytes.clone())
    }

    pub fn tag(&self, path: &str) -> String {
        hex(&self.bytes(path))
    }

    /// Faults of one file come one after the other.
    pub fn fault(&self, path: &str, fault: Fault) {
        self.with(|s| s.faults.entry(path.into()).or_default().push_back(fault));
    }

    pub fn heal(&self) {
        self.with(|s| s.faults.clear());
    }

    pub fn faults_left(&self, path: &str) -> Vec<Fault> {
        self.with(|s| s.faults.get(path).into_iter().flatten().cloned().collect())
    }

    pub fn demand(&self, token: &str) {
        self.with(|s| s.token = Some(token.into()));
    }

    /// Paths that were asked for, each with its range.
    pub fn asked(&self) -> Vec<String> {
        self.with(|s| s.asked.clone())
    }

    pub fn forget(&self) {
        self.with(|s| s.asked.clear());
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().ok_or(std::io::ErrorKind::UnexpectedEof)??;
    let path = first.split(' ').nth(1).unwrap_or_default().to_string();
    let (mut range, mut token) = (None, None);
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (key, value) = line.split_once(": ").unwrap_or((&line, ""));
        match key.to_lowercase().as_str() {
            "range" => range = Some(value.to_string()),
            "authorization" => token = value.strip_prefix("Bearer ").map(String::from),
            _ => {}
        }
    }
    let answer = answer(&mut state.lock().unwrap(), &path, range.as_deref(), token);
    let mut out = stream;
    out.write_all(answer.as_slice())?;
    out.flush()?;
    if answer.windows(STALLS.len()).any(|part| part == STALLS.as_bytes()) {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
    Ok(())
}

/// Head and body, the connection closed behind them.
fn respond(status: &str, headers: &[(&str, String)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    headers.iter().for_each(|(key, value)| out += &format!("{key}: {value}\r\n"));
    out += "\r\n";
    [out.as_bytes(), body].concat()
}

fn empty(status: &str, headers: &[(&str, String)]) -> Vec<u8> {
    let headers = [headers, &[("Content-Length", "0".into())]].concat();
    respond(status, &headers, b"")
}

fn answer(state: &mut State, path: &str, range: Option<&str>, token: Option<String>) -> Vec<u8> {
    state.asked.push(format!("{path} {}", range.unwrap_or_default()));
    let cdn = path.strip_prefix("/cdn/").map(String::from);
    if cdn.is_none()
        && let Some(demanded) = &state.token
    {
        match token {
            None => return empty("401 Unauthorized", &[]),
            Some(token) if token != *demanded => return empty("403 Forbidden", &[]),
            Some(_) => {}
        }
    }
    let (repository, commit) = (state.repository.clone(), state.commit.clone());
    if path.starts_with(&format!("/api/models/{repository}/revision/main")) {
        let body = listing(state);
        let length = ("Content-Length", body.len().to_string());
        return respond("200 OK", &[("Content-Type", "application/json".into()), length], body.as_bytes());
    }
    let file = path.strip_prefix(&format!("/{repository}/resolve/main/")).map(String::from);
    let Some(name) = file.clone().or(cdn.clone()) else { return empty("404 Not Found", &[]) };
    let Some(File { bytes, large }) = state.files.get(&name) else { return empty("404 Not Found", &[]) };
    let (bytes, large) = (bytes.clone(), *large);
    // The library asks for one byte to learn the size; faults are for what it downloads, but for false heads.
    let probing = range == Some("bytes=0-0");
    let waiting = state.faults.entry(name.clone()).or_default();
    let false_head = matches!(waiting.front(), Some(Fault::Tag(_) | Fault::Commit(_)));
    let carries = cdn.is_some() || !large;
    let fault = if carries && !probing || file.is_some() && false_head { waiting.pop_front() } else { None };
    let mut heads = vec![("X-Repo-Commit", commit), ("ETag", format!("\"{}\"", hex(&bytes)))];
    match &fault {
        Some(Fault::Tag(tag)) => heads[1].1 = format!("\"{tag}\""),
        Some(Fault::Commit(commit)) => heads[0].1.clone_from(commit),
        _ => {}
    }
    if file.is_some() && large {
        heads.push(("X-Linked-Etag", heads[1].1.clone()));
        // As the hub does: another address, which need not know tags and commits.
        heads.push(("Location", format!("{}/cdn/{name}", state.address)));
        return empty("302 Found", &heads);
    }
    if cdn.is_some() {
        heads.clear();
    }
    body(&bytes, range, fault, heads)
}

fn body(bytes: &[u8], range: Option<&str>, fault: Option<Fault>, mut heads: Vec<(&str, String)>) -> Vec<u8> {
    let total = bytes.len();
    let wanted = range.and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'));
    let wanted = wanted.filter(|_| !matches!(fault, Some(Fault::NoRange)));
    let from = wanted.and_then(|(from, _)| from.parse().ok()).unwrap_or(0);
    let to = wanted.and_then(|(_, to)| to.parse::<usize>().ok()).map_or(total, |to| (to + 1).min(total));
    if from >= total {
        return empty("416 Range Not Satisfiable", &heads);
    }
    let mut part = bytes[from..to].to_vec();
    let status = if wanted.is_some() {
        heads.push(("Content-Range", format!("bytes {from}-{}/{total}", to - 1)));
        "206 Partial Content"
    } else {
        "200 OK"
    };
    if !matches!(fault, Some(Fault::NoLength(_))) {
        heads.push(("Content-Length", part.len().to_string()));
    }
    match fault {
        Some(Fault::CutAt(at) | Fault::NoLength(at)) => part.truncate(at),
        Some(Fault::StallAt(at)) => {
            part.truncate(at);
            heads.push((STALLS, "yes".into()));
        }
        Some(Fault::WrongByte) => part[0] ^= 0x55,
        _ => {}
    }
    respond(status, &heads, &part)
}

fn listing(state: &State) -> String {
    let siblings: Vec<String> = state
        .files
        .iter()
        .map(|(path, file)| {
            let size = file.bytes.len();
            let lfs = match file.large {
                true => format!(
                    ",\"lfs\":{{\"sha256\":\"{}\",\"size\":{size},\"pointerSize\":135}}",
                    hex(&file.bytes)
                ),
                false => String::new(),
            };
            format!("{{\"rfilename\":\"{path}\",\"size\":{size}{lfs}}}")
        })
        .collect();
    let commit = &state.commit;
    format!("{{\"id\":\"{}\",\"sha\":\"{commit}\",\"siblings\":[{}]}}", state.repository, siblings.join(","))
}
