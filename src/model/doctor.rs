//! Reports the runtimes, devices and libraries on this machine, and what to install for the missing
//! ones.

use super::{Device, ModelOptions, Runtime, embedded, library, onnx};

/// Returns the findings as pairs of a subject and a text, in the order in which to print them.
pub fn doctor() -> Vec<(String, String)> {
    let mut report = Vec::new();
    let mut say = |subject: &str, finding: String| report.push((subject.to_owned(), finding));

    match Runtime::find(&ModelOptions::default()) {
        Ok(runtime) => {
            say(
                "in use",
                format!(
                    "{} {} on {}",
                    runtime.name(),
                    runtime.version(),
                    runtime.devices().join(", ")
                ),
            );
            for note in runtime.notes() {
                say("note", note);
            }
        }
        Err(error) => say("in use", error.to_string()),
    }
    say(
        "rten",
        format!("{}, embedded, runs on the CPU", embedded::VERSION),
    );

    let chosen = match library::find() {
        Ok(chosen) => chosen,
        Err(error) => {
            say("onnxruntime", error.to_string());
            None
        }
    };
    let others = library::candidates().into_iter().filter(|other| {
        chosen
            .as_ref()
            .is_none_or(|chosen| chosen.path != other.path)
    });
    for found in chosen.iter().cloned().chain(others) {
        say(
            "onnxruntime",
            format!("{}, found in {}", found.path.display(), found.how),
        );
    }
    let providers = chosen.as_ref().map(onnx::providers);
    match &providers {
        None => say(
            "onnxruntime",
            "not found: `pip install onnxruntime` in the active environment, or set ORT_DYLIB_PATH"
                .to_owned(),
        ),
        // The reason is reported above.
        Some(Err(_)) => say("providers", "none: the library cannot be used".to_owned()),
        Some(Ok(names)) if names.is_empty() => say("providers", "CPU".to_owned()),
        Some(Ok(names)) => say("providers", format!("CPU, {}", names.join(", "))),
    }

    let driver = library::nvidia_driver();
    say(
        "NVIDIA driver",
        driver
            .clone()
            .unwrap_or_else(|| "not found, so models run on the CPU".to_owned()),
    );
    let libraries = library::cuda_libraries(chosen.as_ref().map(|found| found.path.as_path()));
    let names: Vec<String> = libraries
        .iter()
        .filter_map(|path| path.file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    for folder in library::cuda_folders(chosen.as_ref().map(|found| found.path.as_path())) {
        if libraries.iter().any(|path| path.parent() == Some(&folder)) {
            say("CUDA libraries", folder.display().to_string());
        }
    }
    if driver.is_none() {
        return report;
    }
    match Runtime::find(&ModelOptions {
        device: Device::Cuda(vec![0]),
        tf32: false,
    }) {
        Ok(_) => say("cuda:0", "works".to_owned()),
        Err(error) => say("cuda:0", error.message),
    }
    if !matches!(&providers, Some(Ok(names)) if names.contains(&"CUDA")) {
        say(
            "for CUDA",
            "`pip install onnxruntime-gpu` (version 1.27 and later need CUDA 13 and cuDNN 9)"
                .to_owned(),
        );
    }
    // Packages without a suffix contain CUDA 13; those with -cu12 are for onnxruntime-gpu up to
    // 1.26.
    let needed = [
        ("libcudart.so", "nvidia-cuda-runtime"),
        ("libcublas.so", "nvidia-cublas"),
        ("libcufft.so", "nvidia-cufft"),
        ("libcurand.so", "nvidia-curand"),
        ("libnvrtc.so", "nvidia-cuda-nvrtc"),
        ("libcudnn.so", "nvidia-cudnn-cu13"),
    ];
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(library, _)| !names.iter().any(|name| name.starts_with(library)))
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        say(
            "for CUDA",
            format!(
                "`pip install {}`, or list the folders of these libraries in TRAJMILL_CUDA_LIBS",
                missing.join(" ")
            ),
        );
    }
    report
}
