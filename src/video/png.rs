//! Encodes pictures as PNG files with FFmpeg's libraries.

use ffmpeg_next::codec;
use ffmpeg_next::util::format::Pixel;
use ffmpeg_next::{Dictionary, Packet, encoder, frame};

/// Appends a picture as a PNG file.
pub(super) fn encode(
    encoder: &mut Option<encoder::Video>,
    picture: &frame::Video,
    out: &mut Vec<u8>,
) -> Result<(), ffmpeg_next::Error> {
    let size = (picture.width(), picture.height());
    let png = match encoder.take() {
        Some(png) if (png.width(), png.height()) == size => encoder.insert(png),
        _ => {
            let codec = encoder::find(codec::Id::PNG).ok_or(ffmpeg_next::Error::EncoderNotFound)?;
            let mut png = codec::Context::new_with_codec(codec).encoder().video()?;
            png.set_width(picture.width());
            png.set_height(picture.height());
            png.set_format(Pixel::RGB24);
            png.set_time_base((1, 1_000_000));
            let options = Dictionary::from_iter([("pred", "mixed")]);
            encoder.insert(png.open_as_with(codec, options)?)
        }
    };
    let mut packet = Packet::empty();
    png.send_frame(picture)?;
    png.receive_packet(&mut packet)?;
    out.extend_from_slice(packet.data().unwrap_or_default());
    Ok(())
}
