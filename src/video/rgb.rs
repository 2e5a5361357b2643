//! Converts decoded frames to RGB, with FFmpeg's own conversion.

use ffmpeg_next::util::format::Pixel;
use ffmpeg_next::{color, filter, frame};

/// The properties of a frame that its conversion depends on.
#[derive(PartialEq)]
pub(super) struct FrameFormat {
    pixel: Pixel,
    width: u32,
    height: u32,
    space: color::Space,
    range: color::Range,
}

impl FrameFormat {
    pub(super) fn of(frame: &frame::Video) -> FrameFormat {
        FrameFormat {
            pixel: frame.format(),
            width: frame.width(),
            height: frame.height(),
            space: frame.color_space(),
            range: frame.color_range(),
        }
    }
}

/// Converts frames of one format to RGB with 8 bits per channel.
pub(super) struct Rgb {
    pub(super) format: FrameFormat,
    graph: filter::Graph,
}

impl Rgb {
    pub(super) fn new(format: FrameFormat) -> Result<Rgb, ffmpeg_next::Error> {
        let found = |name: &str| filter::find(name).ok_or(ffmpeg_next::Error::FilterNotFound);
        let pixel = format
            .pixel
            .descriptor()
            .ok_or(ffmpeg_next::Error::InvalidData)?
            .name();
        let matrix = match format.space {
            color::Space::BT709 => "bt709",
            color::Space::FCC => "fcc",
            color::Space::SMPTE240M => "smpte240m",
            color::Space::BT2020NCL | color::Space::BT2020CL => "bt2020",
            // FFmpeg and LeRobot's loaders assume BT.601 if nothing is declared.
            _ => "bt601",
        };
        let range = if format.range == color::Range::JPEG {
            "full"
        } else {
            "auto"
        };
        let mut graph = filter::Graph::new();
        let source = format!(
            "video_size={}x{}:pix_fmt={pixel}:time_base=1/1000000",
            format.width, format.height
        );
        graph.add(&found("buffer")?, "in", &source)?;
        graph.add(&found("buffersink")?, "out", "")?;
        let scale = format!(
            "scale=threads=1:flags=bilinear:in_color_matrix={matrix}:in_range={range},format=rgb24"
        );
        graph.output("in", 0)?.input("out", 0)?.parse(&scale)?;
        graph.validate()?;
        Ok(Rgb { format, graph })
    }

    /// Converts a frame to RGB. FFmpeg takes over the contents of `frame`, which is empty
    /// afterwards.
    pub(super) fn convert(
        &mut self,
        frame: &frame::Video,
    ) -> Result<frame::Video, ffmpeg_next::Error> {
        let mut picture = frame::Video::empty();
        self.graph
            .get("in")
            .ok_or(ffmpeg_next::Error::FilterNotFound)?
            .source()
            .add(frame)?;
        self.graph
            .get("out")
            .ok_or(ffmpeg_next::Error::FilterNotFound)?
            .sink()
            .frame(&mut picture)?;
        Ok(picture)
    }
}
