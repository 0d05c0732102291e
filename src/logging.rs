//! Writes the log: what env_logger has made of a record goes into a bounded queue, and a thread of its own carries it to
//! standard error. A log that nobody reads (a full pipe, a stopped terminal) stops that thread and nothing else.
//!
//! Bounds: [`QUEUE_BYTES`]. A line past it is dropped and counted (`hydrant_log_lines_left_out_total`), and one line says
//! so once the log is read again. The lines of other crates are limited like ours (`hydrant_actors::say`), by the place
//! in their code.
//!
//! The end of the process waits for the queue, at most [`AT_END`]: [`finish`], and [`log::Log::flush`] for whoever ends
//! it without coming back.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hydrant_actors::clock::coarse_ms;
use hydrant_actors::say;
use log::{Level, Log, Metadata, Record};
use parking_lot::{Condvar, Mutex};

/// Bytes of the log that wait for whoever reads it.
pub const QUEUE_BYTES: usize = 1024 * 1024;
/// The end of the process waits no longer for its last lines.
pub const AT_END: Duration = Duration::from_secs(1);
/// What went quiet is looked for so often.
const SWEEP: Duration = Duration::from_secs(1);
/// Bytes handed to the system at once.
const PIECE: usize = 16 * 1024;

static WRITER: OnceLock<Arc<Queue>> = OnceLock::new();

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// There is something to write.
    filled: Condvar,
    /// All is written.
    empty: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Bytes that the thread has in its hands.
    writing: usize,
    left_out: u64,
}

impl Queue {
    /// Takes a line, or counts it. Never waits for the log's reader.
    fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.lines.len() + state.writing + line.len() > QUEUE_BYTES {
            state.left_out += 1;
            say::UNREAD.inc();
            return;
        }
        state.lines.extend_from_slice(line);
        self.filled.notify_one();
    }

    /// Writes what is there, or waits for it a moment. How many lines were left out before it was written.
    fn write_out(&self, out: &mut impl Write, buffer: &mut Vec<u8>) -> u64 {
        let mut state = self.state.lock();
        if state.lines.is_empty() {
            self.filled.wait_for(&mut state, SWEEP);
        }
        buffer.clear();
        buffer.shrink_to(PIECE);
        std::mem::swap(buffer, &mut state.lines);
        state.writing = buffer.len();
        drop(state);
        let mut written = 0;
        while written < buffer.len() {
            let end = buffer.len().min(written + PIECE);
            match out.write(&buffer[written..end]) {
                Ok(0) => break,
                Ok(n) => {
                    written += n;
                    self.state.lock().writing = buffer.len() - written;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody else has made the terminal so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                // Nobody will ever read it.
                Err(_) => break,
            }
        }
        let lost = buffer[written..].iter().filter(|byte| **byte == b'\n').count() as u64;
        say::UNREAD.add(lost);
        let mut state = self.state.lock();
        state.writing = 0;
        if state.lines.is_empty() {
            self.empty.notify_all();
        }
        std::mem::take(&mut state.left_out)
    }

    /// False: something is left after that time.
    fn flush(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut state = self.state.lock();
        while !state.lines.is_empty() || state.writing > 0 {
            if self.empty.wait_until(&mut state, end).timed_out() {
                return state.lines.is_empty() && state.writing == 0;
            }
        }
        true
    }
}

/// Where env_logger writes.
struct Input(Arc<Queue>);

impl Write for Input {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Logger {
    inner: env_logger::Logger,
    queue: Arc<Queue>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.inner.matches(record) {
            return;
        }
        let ours = ["hydrant", "broker"].iter().any(|name| record.target().starts_with(name));
        if ours || record.level() > Level::Info {
            return self.inner.log(record);
        }
        static FOREIGN: say::Keyed = say::Keyed::new();
        let place = format!("{}:{}", record.target(), record.line().unwrap_or_default());
        let Some(more) = FOREIGN.of(&place).take() else { return };
        let line = say::one_line(*record.args(), say::MAX_LINE);
        let more = if more > 0 {
            format!(" (and {more} more since the last such line)")
        } else {
            String::new()
        };
        self.inner.log(
            &Record::builder()
                .metadata(record.metadata().clone())
                .module_path(record.module_path())
                .file(record.file())
                .line(record.line())
                .args(format_args!("{line}{more}"))
                .build(),
        );
    }

    fn flush(&self) {
        self.queue.flush(AT_END);
    }
}

/// Sends the log to standard error; RUST_LOG takes the place of `filter`. Once a process; more calls do nothing.
pub fn start(filter: &str) {
    let queue = Arc::new(Queue::default());
    let mut builder =
        env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter));
    builder.format_timestamp_millis();
    let thread = {
        let queue = Arc::clone(&queue);
        std::thread::Builder::new().name("stderr".to_owned()).spawn(move || run(&queue))
    };
    // Without a thread the log is written where it is made.
    if thread.is_ok() {
        builder
            .write_style(style())
            .target(env_logger::Target::Pipe(Box::new(Input(Arc::clone(&queue)))));
        let _ = WRITER.set(Arc::clone(&queue));
    }
    say::measure_by(coarse_ms);
    let inner = builder.build();
    let max = inner.filter();
    if log::set_boxed_logger(Box::new(Logger { inner, queue })).is_ok() {
        log::set_max_level(max);
    }
}

/// Colours for a terminal, unless RUST_LOG_STYLE or NO_COLOR says otherwise.
fn style() -> env_logger::WriteStyle {
    use std::io::IsTerminal as _;
    let wanted = std::env::var("RUST_LOG_STYLE").unwrap_or_default();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match wanted.as_str() {
        "always" => env_logger::WriteStyle::Always,
        "never" => env_logger::WriteStyle::Never,
        _ if io::stderr().is_terminal() && !plain => env_logger::WriteStyle::Always,
        _ => env_logger::WriteStyle::Never,
    }
}

fn run(queue: &Queue) {
    let (mut out, mut buffer) = (io::stderr(), Vec::new());
    let mut swept = Instant::now();
    loop {
        let left_out = queue.write_out(&mut out, &mut buffer);
        if left_out > 0 {
            log::log!(Level::Warn, "{left_out} lines were left out because nobody read the log");
        }
        if swept.elapsed() >= SWEEP {
            swept = Instant::now();
            say::sweep(coarse_ms());
        }
    }
}

/// The last line of the process, behind all that was logged.
pub fn last_line(line: &str) {
    match WRITER.get() {
        Some(queue) => {
            say::sweep(u64::MAX);
            queue.push(format!("{line}\n").as_bytes());
            queue.flush(AT_END);
        }
        None => {
            let _ = writeln!(io::stderr(), "{line}");
        }
    }
}

/// Says what was left out, and waits until the log is written: before the process ends.
pub fn finish() {
    if let Some(queue) = WRITER.get() {
        say::sweep(u64::MAX);
        queue.flush(AT_END);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A reader that takes nothing until it is told to.
    #[derive(Default, Clone)]
    struct Reader(Arc<(Mutex<Taken>, Condvar)>);

    #[derive(Default)]
    struct Taken {
        reads: bool,
        bytes: Vec<u8>,
    }

    impl Reader {
        fn read(&self) {
            self.0.0.lock().reads = true;
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().bytes.clone()).unwrap()
        }
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.0.lock();
            self.0.1.wait_while(&mut state, |state| !state.reads);
            let taken = bytes.len().min(1000);
            state.bytes.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_nobody_reads_is_bounded_and_counted_and_goes_on() {
        let (queue, reader) = (Arc::new(Queue::default()), Reader::default());
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let lines = QUEUE_BYTES / line.len();
        for _ in 0..lines + 500 {
            queue.push(&line);
        }
        assert_eq!(queue.state.lock().left_out, 500);
        let writer = {
            let (queue, mut reader) = (Arc::clone(&queue), reader.clone());
            std::thread::spawn(move || queue.write_out(&mut reader, &mut Vec::new()))
        };
        // What the thread has in its hands counts.
        let end = Instant::now() + Duration::from_secs(20);
        while queue.state.lock().writing == 0 && Instant::now() < end {
            std::thread::yield_now();
        }
        queue.push(&line);
        assert_eq!(queue.state.lock().left_out, 501);
        assert!(!queue.flush(Duration::from_millis(10)), "nobody reads");
        reader.read();
        assert!(queue.flush(Duration::from_secs(20)));
        assert_eq!(writer.join().unwrap(), 501);
        assert_eq!(reader.text().lines().count(), lines);
        queue.push(b"again\n");
        assert_eq!(queue.write_out(&mut reader.clone(), &mut Vec::new()), 0);
        assert!(reader.text().ends_with("x\nagain\n"));
    }

    #[test]
    fn a_closed_log_is_no_reason_to_wait() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = Queue::default();
        let before = say::UNREAD.get();
        queue.push(b"a\nb\n");
        assert_eq!(queue.write_out(&mut Closed, &mut Vec::new()), 0);
        assert!(queue.flush(Duration::ZERO));
        assert!(say::UNREAD.get() >= before + 2);
    }
}
