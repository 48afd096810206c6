//! Ctrl-C: the first asks the work to stop, the second ends the program.

use velatura::CancelToken;

/// A token that Ctrl-C (or a request to terminate) cancels.
pub fn token() -> CancelToken {
    let token = CancelToken::default();
    let handler = token.clone();
    // Without a handler Ctrl-C still ends the program, only less politely.
    let installed = ctrlc::set_handler(move || {
        if handler.is_cancelled() {
            std::process::exit(130);
        }
        handler.cancel();
    });
    if let Err(error) = installed {
        tracing::warn!("Ctrl-C cannot be handled: {error}");
    }
    token
}
