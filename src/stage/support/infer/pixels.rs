//! The form in which a model gets frames.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::names::did_you_mean;
use crate::dataset::frames::Picture;
use crate::error::{Error, Result};
use crate::model::{DataMut, Port};
use crate::stage::Misfit;
use crate::video::{Filter, Resize};

/// How models get the frames of videos and images: one form for all inputs, or one for each, by
/// name.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::stage) enum FrameOptions {
    /// The form of all inputs that show frames.
    All(PixelOptions),
    /// The form of each input, by name.
    Each(BTreeMap<String, PixelOptions>),
}

/// The form in which a model gets frames. It is made while they are decoded: they are resized, then
/// scaled, then normalised.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::stage) struct PixelOptions {
    /// Height and width that frames are resized to, such as `[224, 224]`. Default: frames are not
    /// resized.
    pub(in crate::stage) size: Option<[usize; 2]>,
    /// What happens to frames with other proportions than `size`. Default: `stretch`.
    #[serde(default)]
    pub(in crate::stage) fit: Fit,
    /// How the pixels of a resized frame are made. Default: `bilinear`.
    #[serde(default)]
    pub(in crate::stage) filter: Filter,
    /// Order of axes: `chw` or `hwc`. Default: the order that the shape of the model's input shows,
    /// else `hwc`.
    pub(in crate::stage) layout: Option<Layout>,
    /// Type of the numbers: `uint8` for 0 to 255 as they are, or `float32`, which `scale`, `mean`
    /// and `std` need. Default: `uint8` for a model with integer inputs, else `float32`.
    pub(in crate::stage) dtype: Option<Dtype>,
    /// Factor for every value, such as `0.5`, or `unit`: values are divided by 255. Default: 1.
    pub(in crate::stage) scale: Option<Scale>,
    /// Subtracted from the scaled values: a number for each of red, green and blue, such as
    /// `[0.485, 0.456, 0.406]`. Default: 0.
    pub(in crate::stage) mean: Option<[f32; 3]>,
    /// What the values are divided by after that, such as `[0.229, 0.224, 0.225]`. Default: 1.
    pub(in crate::stage) std: Option<[f32; 3]>,
}

/// What happens to frames with other proportions than the wanted size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::stage) enum Fit {
    /// Both axes are resized by themselves.
    #[default]
    Stretch,
    /// The frame is resized to cover the size, and what reaches beyond its middle is cut off.
    Crop,
    /// The frame is resized to lie inside the size, and black is added around it.
    Pad,
}

/// The order of the axes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::stage) enum Layout {
    /// Channels, height, width.
    Chw,
    /// Height, width, channels.
    Hwc,
}

/// The type of the numbers of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::stage) enum Dtype {
    /// 0 to 255.
    Uint8,
    /// 32-bit floating-point numbers.
    Float32,
}

/// A factor.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::stage) enum Scale {
    /// A factor.
    Factor(f32),
    /// A division by 255.
    Named(Unit),
}

/// A division by 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::stage) enum Unit {
    /// Values are divided by 255.
    Unit,
}

/// The size and the shape of frames that an input shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Height and width of a frame.
    pub(super) size: [usize; 2],
    /// Whether frames are resized to it. Otherwise they must have it.
    pub(super) resized: bool,
    pub(super) fit: Fit,
    pub(super) filter: Filter,
}

/// The values that a model gets for the bytes of a frame.
pub(super) struct Values {
    layout: Layout,
    /// The value of each byte of each channel; `None` for the bytes themselves.
    table: Option<Box<[[f32; 256]; 3]>>,
}

impl FrameOptions {
    /// Returns the form of the input `port`.
    pub(in crate::stage) fn of(&self, port: &Port) -> Option<&PixelOptions> {
        match self {
            FrameOptions::All(options) => Some(options),
            FrameOptions::Each(each) => each.get(&port.name),
        }
    }

    /// Returns a misfit if a name is not that of an input.
    pub(in crate::stage) fn check(
        options: Option<&FrameOptions>,
        ports: &[&Port],
    ) -> Result<(), Misfit> {
        let Some(FrameOptions::Each(each)) = options else {
            return Ok(());
        };
        let known = ports.iter().map(|port| port.name.as_str());
        match each
            .keys()
            .find(|name| !known.clone().any(|known| known == *name))
        {
            None => Ok(()),
            Some(name) => Err(Misfit::new(format!("the model has no input `{name}`"))
                .help(did_you_mean(name, known))
                .at(name.as_str())
                .at("frames")),
        }
    }
}

impl PixelOptions {
    /// Returns the values that a model with floating-point numbers if `float` gets.
    pub(super) fn values(&self, layout: Layout, float: bool) -> Result<Values, Misfit> {
        let changes = [
            ("scale", self.scale.is_some()),
            ("mean", self.mean.is_some()),
            ("std", self.std.is_some()),
        ];
        let changed = changes.iter().find(|(_, given)| *given);
        let float = match self.dtype {
            Some(Dtype::Float32) if !float => {
                return Err(Misfit::new(
                    "`dtype: float32` does not fit the model's input, which holds integers",
                )
                .at("dtype"));
            }
            Some(dtype) => dtype == Dtype::Float32,
            None => float,
        };
        if let Some((name, _)) = changed.filter(|_| !float) {
            return Err(
                Misfit::new(format!("`{name}` needs floating-point numbers, not uint8"))
                    .help("leave it out, or use a model with a float32 input")
                    .at(*name),
            );
        }
        if let Some(channel) = self
            .std
            .and_then(|std| std.iter().position(|std| *std == 0.0))
        {
            return Err(Misfit::new(format!("`std` is 0 for channel {}", channel + 1)).at("std"));
        }
        let value = |channel: usize, byte: usize| {
            let byte = byte as f32;
            let scaled = match self.scale {
                None => byte,
                Some(Scale::Factor(factor)) => byte * factor,
                Some(Scale::Named(Unit::Unit)) => byte / 255.0,
            };
            let centred = self.mean.map_or(scaled, |mean| scaled - mean[channel]);
            self.std.map_or(centred, |std| centred / std[channel])
        };
        let table = changed.map(|_| {
            Box::new(std::array::from_fn(|channel| {
                std::array::from_fn(|byte| value(channel, byte))
            }))
        });
        Ok(Values { layout, table })
    }
}

impl Values {
    /// Writes the values of the frame `rgb` into `out` from `at` on; black for no frame... zeros.
    pub(super) fn put(&self, rgb: Option<&[u8]>, out: &mut DataMut, at: usize, count: usize) {
        match out {
            DataMut::F32(out) => self.fill(rgb, &mut out[at..at + count], f32::from, |v| v),
            DataMut::F64(out) => {
                self.fill(rgb, &mut out[at..at + count], f64::from, f64::from);
            }
            DataMut::F16(out) => self.fill(
                rgb,
                &mut out[at..at + count],
                half::f16::from,
                half::f16::from_f32,
            ),
            DataMut::I32(out) => {
                self.fill(rgb, &mut out[at..at + count], i32::from, |v| v as i32);
            }
            DataMut::I64(out) => {
                self.fill(rgb, &mut out[at..at + count], i64::from, |v| v as i64);
            }
            DataMut::U8(out) => self.fill(rgb, &mut out[at..at + count], |v| v, |v| v as u8),
        }
    }

    fn fill<T: Copy + Default>(
        &self,
        rgb: Option<&[u8]>,
        out: &mut [T],
        plain: impl Fn(u8) -> T,
        changed: impl Fn(f32) -> T,
    ) {
        let Some(rgb) = rgb else {
            out.fill(T::default());
            return;
        };
        let plane = out.len() / 3;
        match (self.layout, &self.table) {
            (Layout::Hwc, None) => {
                for (out, value) in out.iter_mut().zip(rgb) {
                    *out = plain(*value);
                }
            }
            (Layout::Hwc, Some(table)) => {
                for (out, pixel) in out.chunks_exact_mut(3).zip(rgb.chunks_exact(3)) {
                    for (channel, out) in out.iter_mut().enumerate() {
                        *out = changed(table[channel][usize::from(pixel[channel])]);
                    }
                }
            }
            (Layout::Chw, table) => {
                for (channel, out) in out.chunks_exact_mut(plane.max(1)).enumerate().take(3) {
                    let values = rgb.iter().skip(channel).step_by(3);
                    match table {
                        None => out
                            .iter_mut()
                            .zip(values)
                            .for_each(|(out, value)| *out = plain(*value)),
                        Some(table) => out.iter_mut().zip(values).for_each(|(out, value)| {
                            *out = changed(table[channel][usize::from(*value)])
                        }),
                    }
                }
            }
        }
    }
}

impl Shape {
    /// Returns the number of bytes of a frame.
    pub(super) fn bytes(&self) -> usize {
        3 * self.size[0] * self.size[1]
    }

    /// Returns the frame in the wanted size, row by row.
    ///
    /// # Errors
    /// Returns an error if it has another size and is not to be resized.
    pub(super) fn convert(&self, picture: Picture) -> Result<Vec<u8>> {
        let [height, width] = self.size;
        let found = [picture.height, picture.width];
        if found == self.size {
            let mut out = Vec::with_capacity(self.bytes());
            picture.rows().for_each(|row| out.extend_from_slice(row));
            return Ok(out);
        }
        if !self.resized || found.contains(&0) {
            return Err(Error::failed(format!(
                "frames have {} × {} pixels, but the model takes {height} × {width}",
                found[0], found[1]
            ))
            .hint(format!(
                "resize them with `frames: {{size: [{height}, {width}]}}`"
            )));
        }
        let inner = self.inner(found);
        let resized = Resize::new(found, inner, self.filter).apply(picture);
        if inner == self.size {
            return Ok(resized);
        }
        // Where the wanted picture begins in the resized one, or the other way round. torchvision's
        // `CenterCrop` rounds halves to even numbers.
        let offset = |inner: usize, wanted: usize| {
            let apart = inner.abs_diff(wanted);
            let rounds_up = self.fit == Fit::Crop && apart % 4 == 3;
            apart / 2 + usize::from(rounds_up)
        };
        let (top, left) = (offset(inner[0], height), offset(inner[1], width));
        let mut out = vec![0; self.bytes()];
        let rows = inner[0].min(height);
        let count = 3 * inner[1].min(width);
        let start = |own: bool, row: usize, width: usize| {
            if own {
                3 * ((row + top) * width + left)
            } else {
                3 * row * width
            }
        };
        let crops = self.fit == Fit::Crop;
        for row in 0..rows {
            let from = start(crops, row, inner[1]);
            let to = start(!crops, row, width);
            out[to..to + count].copy_from_slice(&resized[from..from + count]);
        }
        Ok(out)
    }

    /// Returns the size to which a picture of the size `from` is resized before it is cut or
    /// framed.
    fn inner(&self, from: [usize; 2]) -> [usize; 2] {
        let [height, width] = self.size;
        // Compares the factors of both axes exactly.
        let wide = height * from[1] >= width * from[0];
        let by_height = [height, (from[1] * height / from[0]).max(1)];
        let by_width = [(from[0] * width / from[1]).max(1), width];
        match self.fit {
            Fit::Stretch => self.size,
            Fit::Crop if wide => by_height,
            Fit::Crop => by_width,
            Fit::Pad if wide => by_width,
            Fit::Pad => by_height,
        }
    }
}
