//! Descriptions of the options that `label` and `score` have in common.

/// The option `frames`.
pub(in crate::stage) const FRAMES: &str = "How inputs get frames, such as `{size: [224, 224], \
    scale: unit}`: the size to resize to, the order of axes, scale, mean and standard deviation. \
    One form for all inputs with frames, or one for each by name, such as `{img: {size: [224, \
    224]}}`. Default: frames as they are.";

/// The option `state`.
pub(in crate::stage) const STATE: &str = "State of a recurrent model: the output that each state \
    input takes its values from at the next step, such as `{h: h_out}`. It is zero at the first \
    step of a trajectory, or what `start` says, as in `{h: {output: h_out, start: 0.5}}`.";

/// The option `precision`.
pub(in crate::stage) const PRECISION: &str = "Types that the model computes in: `declared`, or \
    `float32` to accept that the embedded runtime, which has no float64, float16 and int64, \
    computes in float32 and int32. Default: `declared`.";

/// The option `allow_random`.
pub(in crate::stage) const ALLOW_RANDOM: &str = "Whether the model may draw random numbers and \
    have layers in training mode. A repeated run may then write other values. Default: false.";

/// The option `batch`.
pub(in crate::stage) const BATCH: &str = "Rows per batch. The last bits of values may depend on \
    it. Default: the model's own batch size if it is fixed, else 64 for a recurrent model, 512 on \
    a CPU and 16384 on a GPU. With frames, as many rows as 1,048,576 values of the inputs hold \
    (67,108,864 on a GPU), if these are fewer.";
