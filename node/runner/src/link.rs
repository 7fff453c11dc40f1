//! The runner's end of the stream: reads the agent's frames, writes its own. The network channel is served beside it.
//!
//! There are two lanes outwards. Logs, and what must follow them, wait in the order they were made; everything else
//! overtakes. Both are short, and every run waits for its turn in a fair queue, so a guest that floods its standard
//! output is slowed down and holds up nothing but itself.

use crate::{
    child,
    frame::{self, MAX_FROM_RUNNER_BYTES, MAX_TO_RUNNER_BYTES},
    guests::Guests,
    network::switch::Switch,
    protocol::{FromRunner, RunSample},
};
use std::os::unix::net::UnixStream as StdUnixStream;
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, mpsc},
};

/// Frames waiting in each lane.
const LANE_FRAMES: usize = 64;
/// A part of an answer that is about so long is sent; far below what a frame may have.
const SAMPLES_BYTES: usize = 16 << 10;
/// What a sample takes beside its name, at most.
const SAMPLE_BYTES: usize = 48;
/// How much buffer is kept between writes.
const KEPT_BUFFER_BYTES: usize = 64 << 10;

/// Where frames to the agent are put.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    /// Overtakes logs: `Ready`, `Started`, `StartFailed`, `Lookup`, `Sampled`.
    pub(crate) prompt: mpsc::Sender<FromRunner>,
    /// Keeps its order: `Log`, `Exited`.
    pub(crate) ordered: mpsc::Sender<FromRunner>,
}

/// The other end of an [`Outbox`].
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) prompt: mpsc::Receiver<FromRunner>,
    pub(crate) ordered: mpsc::Receiver<FromRunner>,
}

pub(crate) fn outbox() -> (Outbox, Outgoing) {
    let (prompt, prompt_receiver) = mpsc::channel(LANE_FRAMES);
    let (ordered, ordered_receiver) = mpsc::channel(LANE_FRAMES);
    (Outbox { prompt, ordered }, Outgoing { prompt: prompt_receiver, ordered: ordered_receiver })
}

/// The answer to a question for samples, in parts that fit into frames. There is always one.
pub(crate) fn sampled(question: u64, samples: Vec<RunSample>) -> Vec<FromRunner> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for sample in samples {
        let size = sample.run.0.len() + SAMPLE_BYTES;
        if bytes > 0 && bytes + size > SAMPLES_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(part) = parts.last_mut() {
            part.push(sample);
        }
    }
    let last = parts.len() - 1;
    let part = |(index, runs)| FromRunner::Sampled { question, runs, more: index < last };
    parts.into_iter().enumerate().map(part).collect()
}

/// Says `ready` and serves until the stream ends or breaks; `work` is told of each frame that comes.
pub(crate) async fn serve(
    stream: StdUnixStream,
    ready: FromRunner,
    guests: Guests,
    work: &Notify,
    (switch, outgoing): (&Switch, Outgoing),
) {
    let stream = match stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)) {
        Ok(stream) => stream,
        Err(error) => {
            child::complain(&format!("no stream to the agent: {error}"));
            return;
        }
    };
    let (reader, writer) = stream.into_split();
    // Only the stream's end is the runner's end.
    let network = async {
        switch.serve().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = network => {}
        () = read_frames(BufReader::new(reader), &guests, work) => {}
        () = write_frames(writer, ready, outgoing) => {}
    }
}

/// Never waits for a guest or for the writer: a `Kill` behind any other frame must get through.
async fn read_frames(mut stream: BufReader<OwnedReadHalf>, guests: &Guests, work: &Notify) {
    loop {
        match frame::read(&mut stream, MAX_TO_RUNNER_BYTES).await {
            Ok(Some(frame)) => {
                guests.handle(frame);
                work.notify_one();
            }
            Ok(None) => return,
            Err(error) => return child::complain(&format!("cannot read from the agent: {error}")),
        }
    }
}

async fn write_frames(mut stream: OwnedWriteHalf, ready: FromRunner, mut outgoing: Outgoing) {
    let (mut prompt, mut ordered) = (vec![ready], Vec::new());
    let mut buffer = Vec::new();
    loop {
        // A run's `Started` was put into the prompt lane before its first log into the other, so whatever is in the
        // prompt lane now goes first.
        while let Ok(frame) = outgoing.prompt.try_recv() {
            prompt.push(frame);
        }
        for frame in prompt.drain(..).chain(ordered.drain(..)) {
            if let Err(error) = frame::encode(&frame, MAX_FROM_RUNNER_BYTES, &mut buffer) {
                child::complain(&format!("a frame was dropped: {error}"));
            }
        }
        if stream.write_all(&buffer).await.is_err() {
            return;
        }
        buffer.clear();
        buffer.shrink_to(KEPT_BUFFER_BYTES);
        tokio::select! {
            count = outgoing.ordered.recv_many(&mut ordered, LANE_FRAMES) => if count == 0 { return },
            frame = outgoing.prompt.recv() => match frame {
                Some(frame) => prompt.push(frame),
                None => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::RunId;

    #[test]
    fn many_samples_are_told_in_parts_that_fit() {
        let sample = |number: u64| RunSample {
            run: RunId(format!("{number:0>80}")),
            cpu_nanos: u64::MAX,
            memory_bytes: u64::MAX,
            pod_received_bytes: u64::MAX,
            pod_sent_bytes: u64::MAX,
        };
        for count in [0, 1, 10_000] {
            let parts = sampled(7, (0..count).map(sample).collect());
            let mut seen = 0;
            for (index, part) in parts.iter().enumerate() {
                frame::encode(part, MAX_FROM_RUNNER_BYTES, &mut Vec::new()).unwrap();
                let FromRunner::Sampled { question: 7, runs, more } = part else { panic!("{part:?}") };
                assert_eq!(*more, index + 1 < parts.len());
                seen += u64::try_from(runs.len()).unwrap();
            }
            assert_eq!(seen, count);
        }
    }
}
