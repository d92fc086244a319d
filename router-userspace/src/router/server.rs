//! The router's end of the control socket: reads requests, hands them to the loop one at a time, writes the answers.

use super::control::{MAX_REQUEST, Request, Response};
use super::memory::{self, TooLittle};
use std::io;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// A request and where its answer goes.
pub(super) type Call = (Request, oneshot::Sender<Response>);

/// Accepts clients until the loop is gone.
pub(super) async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    if let Err(error) = client(stream, calls).await {
                        tracing::debug!("control socket: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("control socket: {error}");
                // Out of descriptors, most likely: trying again at once would spin.
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        }
    }
}

async fn client(mut stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if uid != 0 {
        tracing::warn!("control socket: user {uid} is not root, not answered");
        // Said without reading the question, which may be long.
        let message = "the router answers root alone: try again as root, with sudo".to_owned();
        return answer(&mut stream, &Response::Failed { exit: 3, message }).await;
    }
    let (reader, mut writer) = stream.into_split();
    let line = match read_line(reader.take(MAX_REQUEST as u64)).await? {
        Ok(line) => line,
        Err(error) => return answer(&mut writer, &Response::Failed { exit: 3, message: error.to_string() }).await,
    };
    if line.is_empty() {
        return Ok(()); // Somebody asked only who is here.
    }
    let request = serde_json::from_slice(&line);
    drop(line);
    let response = match request {
        Ok(request) => {
            let (sender, receiver) = oneshot::channel();
            let gone = || Response::Failed { exit: 3, message: "the router is ending".into() };
            match calls.send((request, sender)).await {
                Ok(()) => receiver.await.unwrap_or_else(|_| gone()),
                Err(_) => gone(),
            }
        }
        Err(error) => Response::Failed { exit: 2, message: format!("not a request: {error}") },
    };
    let answered = answer(&mut writer, &response).await;
    // The status of many rules is the largest thing that there ever is.
    drop(response);
    memory::give_back();
    answered
}

/// A line, or why there is no room for it: a policy may travel in it that would not fit in memory.
async fn read_line(input: impl AsyncRead + Unpin) -> io::Result<Result<Vec<u8>, TooLittle>> {
    /// Less than this is not asked for.
    const FREE: usize = 1 << 20;
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    loop {
        let chunk = input.fill_buf().await?;
        let end = chunk.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
        let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        if line.len() + part.len() > line.capacity() {
            // Beside what is there already, which is copied: as much again, and all of it once more when it is decoded.
            let more = line.capacity().max(part.len());
            if more > FREE
                && let Err(error) = memory::room(4 * more as u64)
            {
                return Ok(Err(error));
            }
            line.reserve_exact(more);
        }
        line.extend_from_slice(part);
        let taken = part.len();
        input.consume(taken);
        if taken == 0 || end.is_some() {
            return Ok(Ok(line));
        }
    }
}

async fn answer(writer: &mut (impl AsyncWriteExt + Unpin), response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.shutdown().await
}
