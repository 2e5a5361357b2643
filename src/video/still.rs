//! Decodes image files with FFmpeg's libraries.

use ffmpeg_next::codec::{self, threading};
use ffmpeg_next::{Packet, decoder, filter, frame};

use super::demux::initialise;
use crate::error::{Error, Result};

/// Appends the pixels of an image file, PNG or JPEG, to `out`: RGB, row by row. Returns its height
/// and width.
///
/// # Errors
///
/// Returns an error if the file is another one, or if it is damaged.
pub(crate) fn still(file: &[u8], out: &mut Vec<u8>) -> Result<[usize; 2]> {
    initialise();
    decode(file, out).map_err(|error| {
        Error::failed(format!("an image cannot be decoded: {error}"))
            .hint("PNG and JPEG files can be encoded as a video: convert the others first")
    })
}

fn decode(file: &[u8], out: &mut Vec<u8>) -> Result<[usize; 2], ffmpeg_next::Error> {
    let id = match file {
        [0x89, b'P', b'N', b'G', ..] => codec::Id::PNG,
        [0xff, 0xd8, ..] => codec::Id::MJPEG,
        _ => return Err(ffmpeg_next::Error::InvalidData),
    };
    let codec = decoder::find(id).ok_or(ffmpeg_next::Error::DecoderNotFound)?;
    let mut context = codec::Context::new_with_codec(codec);
    context.set_threading(threading::Config::count(1));
    let mut decoder = context.decoder().video()?;
    decoder.send_packet(&Packet::copy(file))?;
    decoder.send_eof()?;
    let mut decoded = frame::Video::empty();
    decoder.receive_frame(&mut decoded)?;
    let (height, width) = (decoded.height() as usize, decoded.width() as usize);
    let pixel = decoded.format().descriptor();
    let pixel = pixel.ok_or(ffmpeg_next::Error::InvalidData)?.name();
    let found = |name: &str| filter::find(name).ok_or(ffmpeg_next::Error::FilterNotFound);
    let mut graph = filter::Graph::new();
    let source = format!("video_size={width}x{height}:pix_fmt={pixel}:time_base=1/1000000");
    graph.add(&found("buffer")?, "in", &source)?;
    graph.add(&found("buffersink")?, "out", "")?;
    // A JPEG has the full range and the matrix of BT.601.
    let range = if id == codec::Id::MJPEG {
        "full"
    } else {
        "auto"
    };
    let scale = format!("scale=flags=bilinear:in_color_matrix=bt601:in_range={range},format=rgb24");
    graph.output("in", 0)?.input("out", 0)?.parse(&scale)?;
    graph.validate()?;
    let missing = ffmpeg_next::Error::FilterNotFound;
    let mut picture = frame::Video::empty();
    graph.get("in").ok_or(missing)?.source().add(&decoded)?;
    graph
        .get("out")
        .ok_or(missing)?
        .sink()
        .frame(&mut picture)?;
    let rows = picture.data(0).chunks(picture.stride(0)).take(height);
    rows.for_each(|row| out.extend_from_slice(&row[..3 * width]));
    Ok([height, width])
}
