//! Opens video files.
//!
//! FFmpeg sees no path: it reads a file that is open already, and may open no other. So a file that
//! names other files or addresses, such as a playlist, is refused, whatever its name.

use std::path::Path;
use std::sync::Once;

use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::util::error::EINVAL;
use ffmpeg_next::{Dictionary, Error as Failure, format, log, media};

use crate::dataset::files;
use crate::error::{Error, Result};

/// The kinds of files that are opened: containers that hold their frames themselves.
const CONTAINERS: &str = "mov,mp4,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,ivf";

/// The number of bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// Prepares FFmpeg's libraries, whose messages become errors of the callers.
pub(super) fn initialise() {
    static READY: Once = Once::new();
    READY.call_once(|| {
        // Registers the texts of errors, which cannot fail.
        let _ = ffmpeg_next::init();
        log::set_level(log::Level::Quiet);
    });
}

/// Opens the video file at `path`, and returns it with the number of its video stream.
///
/// # Errors
///
/// Returns an error if the file cannot be read, is of another kind or has no video.
pub(super) fn open(path: &Path) -> Result<(Input, usize)> {
    initialise();
    let failed = |what: &dyn std::fmt::Display| {
        Error::failed(format!("{}: cannot open the video: {what}", path.display()))
            .hint("the dataset is incomplete or the file is damaged: fetch it again")
    };
    let file = files::open(path).map_err(|error| failed(&error))?;
    if file.metadata().map_err(|error| failed(&error))?.len() == 0 {
        return Err(failed(&"the file is empty"));
    }
    let opened = StreamIo::from_read_seek_with_capacity(file, BUFFER).and_then(|stream| {
        let options = [
            ("format_whitelist", CONTAINERS),
            ("protocol_whitelist", "none"),
        ];
        format::input_from_stream(stream, None, Some(Dictionary::from_iter(options)))
    });
    let input = opened.map_err(|error| match error {
        Failure::Other { errno: EINVAL } => Error::failed(format!(
            "{}: the file is no video, whatever its name says",
            path.display()
        ))
        .hint(
            "MP4, MOV, WebM, Matroska, AVI, MPEG, Ogg, FLV, ASF and IVF files are read, and no \
             playlists or pictures: convert the file, or move it elsewhere",
        ),
        error => failed(&error),
    })?;
    let stream = input.streams().best(media::Type::Video);
    let stream = stream.map(|stream| stream.index()).ok_or_else(|| {
        Error::failed(format!("{}: the file has no video stream", path.display()))
            .hint("move the file elsewhere, or fetch it again if it should have one")
    })?;
    Ok((input, stream))
}
