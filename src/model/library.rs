//! Finds the ONNX Runtime library, and the libraries that its CUDA provider needs, without running
//! Python.
//!
//! Three environment variables control the search:
//!
//! - `ORT_DYLIB_PATH` is the path of the library; there is no search then;
//! - `TRAJMILL_RUNTIME` selects the runtime, `rten` or `onnxruntime`;
//! - `TRAJMILL_CUDA_LIBS` lists more folders with CUDA and cuDNN libraries.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// An ONNX Runtime library that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The library file.
    pub path: PathBuf,
    /// Where the search found it, for messages.
    pub how: String,
    /// Whether the user requested this library or runtime, so that a failure to load it is an
    /// error.
    pub demanded: bool,
}

/// Looks up an environment variable that is set and not empty.
type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn process(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Finds the library. Returns `None` if there is none, or if the environment selects rten.
///
/// # Errors
/// Returns an error if the library that the environment requests does not exist.
pub fn find() -> Result<Option<Found>> {
    find_by(&process)
}

fn find_by(variables: Variables) -> Result<Option<Found>> {
    let demanded = match variables("TRAJMILL_RUNTIME")
        .as_deref()
        .map(|name| name.to_string_lossy())
    {
        None => false,
        Some(name) if name == "rten" => return Ok(None),
        Some(name) if name == "onnxruntime" => true,
        Some(name) => {
            return Err(
                Error::usage(format!("unknown runtime `{name}` in TRAJMILL_RUNTIME"))
                    .hint("set it to `onnxruntime` or `rten`, or unset it to let trajmill choose"),
            );
        }
    };
    if let Some(path) = variables("ORT_DYLIB_PATH").map(PathBuf::from) {
        return match fs::canonicalize(&path) {
            Ok(file) if file.is_file() => Ok(Some(Found {
                path: file,
                how: "ORT_DYLIB_PATH".to_owned(),
                demanded: true,
            })),
            _ => Err(Error::failed(format!(
                "ORT_DYLIB_PATH is {}, which is not a file",
                path.display()
            ))
            .hint(
                "set it to the library itself, such as \
                 …/onnxruntime/capi/libonnxruntime.so.1.32.0, or unset it",
            )),
        };
    }
    match candidates_by(variables).into_iter().next() {
        Some(found) => Ok(Some(Found { demanded, ..found })),
        None if demanded => Err(Error::failed(
            "TRAJMILL_RUNTIME is `onnxruntime`, but its library was not found",
        )
        .hint("`pip install onnxruntime` in the active environment, or set ORT_DYLIB_PATH")),
        None => Ok(None),
    }
}

/// Returns every library that the search finds, in its order.
pub(super) fn candidates() -> Vec<Found> {
    candidates_by(&process)
}

fn candidates_by(variables: Variables) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut look = |folder: &Path, how: String| {
        for path in files(folder, &["libonnxruntime.so", "libonnxruntime.dylib"]) {
            let path = fs::canonicalize(&path).unwrap_or(path);
            if !found.iter().any(|known| known.path == path) {
                found.push(Found {
                    path,
                    how: how.clone(),
                    demanded: false,
                });
            }
        }
    };
    for (packages, how) in site_packages(variables) {
        look(&packages.join("onnxruntime/capi"), how);
    }
    // conda-forge installs the library outside of the Python package.
    if let Some(folder) = conda_lib(variables) {
        look(&folder, "the active conda environment".to_owned());
    }
    if let Some(folder) = env::current_exe().ok().as_deref().and_then(Path::parent) {
        look(folder, "the folder of the executable".to_owned());
    }
    for folder in loader_path(variables) {
        look(&folder, "the library path".to_owned());
    }
    found
}

/// Returns the libraries for the CUDA provider in the order in which they can be loaded, each name
/// once.
pub(super) fn cuda_libraries(runtime: Option<&Path>) -> Vec<PathBuf> {
    // A library is loaded after those that it needs. cuDNN looks up its parts by name when it runs.
    const ORDER: [&str; 18] = [
        "libcudart.so",
        "libnvJitLink.so",
        "libnvrtc-builtins.so",
        "libnvrtc.so",
        "libcublasLt.so",
        "libcublas.so",
        "libcurand.so",
        "libcufft.so",
        "libcudnn.so",
        "libcudnn_graph.so",
        "libcudnn_ops.so",
        "libcudnn_heuristic.so",
        "libcudnn_cnn.so",
        "libcudnn_adv.so",
        "libcudnn_engines_precompiled.so",
        "libcudnn_engines_runtime_compiled.so",
        "libcudnn_engines_tensor_ir.so",
        "libcudnn_ext.so",
    ];
    let folders = cuda_folders(runtime);
    let mut libraries: Vec<PathBuf> = Vec::new();
    for name in ORDER {
        for path in folders.iter().flat_map(|folder| files(folder, &[name])) {
            // The provider looks for names such as `libcudart.so.13`; other names are links to
            // these.
            let suffix = path
                .file_name()
                .and_then(|file| file.to_str())
                .and_then(|file| file.strip_prefix(name))
                .unwrap_or_default();
            let versioned = suffix
                .strip_prefix('.')
                .is_some_and(|version| !version.is_empty());
            if versioned
                && !libraries
                    .iter()
                    .any(|known| known.file_name() == path.file_name())
            {
                libraries.push(path);
            }
        }
    }
    libraries
}

/// Returns the folders that may hold CUDA libraries: those in `TRAJMILL_CUDA_LIBS`, then those of
/// Python packages, conda and the system.
pub(super) fn cuda_folders(runtime: Option<&Path>) -> Vec<PathBuf> {
    let named = process("TRAJMILL_CUDA_LIBS").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&named)
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect();
    // The path of the runtime is …/site-packages/onnxruntime/capi/libonnxruntime.so.
    let beside = runtime
        .and_then(|path| path.ancestors().nth(3))
        .map(Path::to_owned);
    for packages in beside.into_iter().chain(
        site_packages(&process)
            .into_iter()
            .map(|(packages, _)| packages),
    ) {
        folders.extend(
            children(&packages.join("nvidia"))
                .into_iter()
                .map(|package| package.join("lib")),
        );
    }
    folders.extend(conda_lib(&process));
    folders.extend(
        [
            "/usr/local/cuda/lib64",
            "/usr/local/cuda/targets/x86_64-linux/lib",
        ]
        .map(PathBuf::from),
    );
    folders.retain(|folder| folder.is_dir());
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| seen.insert(folder.clone()));
    folders
}

/// Returns the version of the NVIDIA driver, or `present` if only its device file exists.
pub(super) fn nvidia_driver() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok();
    let version = text.as_deref().and_then(|text| {
        text.split_whitespace().find(|word| {
            word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.')
        })
    });
    let device = || {
        fs::exists("/dev/nvidia0")
            .unwrap_or(false)
            .then(|| "present".to_owned())
    };
    version.map(str::to_owned).or_else(device)
}

/// Returns the folders of Python packages in the active virtual and conda environments.
fn site_packages(variables: Variables) -> Vec<(PathBuf, String)> {
    let mut folders = Vec::new();
    for (variable, how) in [
        ("VIRTUAL_ENV", "the active virtual environment"),
        ("CONDA_PREFIX", "the active conda environment"),
    ] {
        let Some(root) = variables(variable).map(PathBuf::from) else {
            continue;
        };
        let pythons = children(&root.join("lib")).into_iter().rev();
        let pythons = pythons.filter(|folder| {
            folder
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("python3"))
        });
        folders.extend(pythons.map(|python| {
            (
                python.join("site-packages"),
                format!("{how} {}", root.display()),
            )
        }));
    }
    folders
}

fn conda_lib(variables: Variables) -> Option<PathBuf> {
    variables("CONDA_PREFIX").map(|root| PathBuf::from(root).join("lib"))
}

fn loader_path(variables: Variables) -> Vec<PathBuf> {
    let variable = if cfg!(target_os = "macos") {
        "DYLD_LIBRARY_PATH"
    } else {
        "LD_LIBRARY_PATH"
    };
    let listed = variables(variable).unwrap_or_default();
    let usual = [
        "/usr/local/lib",
        "/usr/lib",
        "/usr/lib64",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/opt/homebrew/lib",
    ];
    env::split_paths(&listed)
        .filter(|folder| !folder.as_os_str().is_empty())
        .chain(usual.map(PathBuf::from))
        .collect()
}

/// Returns the files in `folder` whose names begin with one of `prefixes`, ordered by name.
fn files(folder: &Path, prefixes: &[&str]) -> Vec<PathBuf> {
    let named = |path: &PathBuf| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        prefixes.iter().any(|prefix| name.starts_with(prefix)) && path.is_file()
    };
    children(folder).into_iter().filter(named).collect()
}

fn children(folder: &Path) -> Vec<PathBuf> {
    // A folder that cannot be read offers no library.
    let mut children = crate::dataset::files::list(folder).unwrap_or_default();
    children.sort();
    children
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &Path, file: &str) -> PathBuf {
        let path = root.join(file);
        crate::dataset::store::create_dir(path.parent().unwrap()).unwrap();
        crate::dataset::store::write(&path, b"").unwrap();
        fs::canonicalize(path).unwrap()
    }

    #[test]
    fn environments_come_before_the_library_path_and_what_is_named_before_all() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name).into_os_string();
        let capi = "lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.32.0";
        let (venv, conda) = (
            place(root.path(), &format!("venv/{capi}")),
            place(root.path(), &format!("conda/{capi}")),
        );
        place(
            root.path(),
            "venv/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime_providers_shared.so",
        );
        let forge = place(root.path(), "conda/lib/libonnxruntime.so.1.24.1");
        let (listed, named) = (
            place(root.path(), "listed/libonnxruntime.so.1"),
            place(root.path(), "named/libonnxruntime.so.1.30.0"),
        );

        let all = [
            ("VIRTUAL_ENV", at("venv")),
            ("CONDA_PREFIX", at("conda")),
            ("LD_LIBRARY_PATH", at("listed")),
        ];
        let set = |set: &[(&str, OsString)], name: &str| {
            set.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.clone())
        };
        let order: Vec<PathBuf> = candidates_by(&|name| set(&all, name))
            .into_iter()
            .map(|found| found.path)
            .collect();
        assert_eq!(
            order
                .iter()
                .filter(|path| path.starts_with(root.path()))
                .cloned()
                .collect::<Vec<_>>(),
            [venv, conda, forge, listed]
        );

        let more = [
            ("ORT_DYLIB_PATH", named.clone().into_os_string()),
            ("VIRTUAL_ENV", at("venv")),
        ];
        let found = find_by(&|name| set(&more, name)).unwrap().unwrap();
        assert!(found.path == named && found.demanded);
        let rten = [
            ("TRAJMILL_RUNTIME", OsString::from("rten")),
            ("ORT_DYLIB_PATH", named.into_os_string()),
        ];
        assert!(find_by(&|name| set(&rten, name)).unwrap().is_none());
    }

    #[test]
    fn what_is_named_and_not_there_is_an_error() {
        let missing = |name: &str| {
            (name == "ORT_DYLIB_PATH").then(|| OsString::from("/nowhere/libonnxruntime.so"))
        };
        assert_eq!(
            find_by(&missing).unwrap_err().message,
            "ORT_DYLIB_PATH is /nowhere/libonnxruntime.so, which is not a file"
        );
        let odd = |name: &str| (name == "TRAJMILL_RUNTIME").then(|| OsString::from("tract"));
        assert_eq!(
            find_by(&odd).unwrap_err().message,
            "unknown runtime `tract` in TRAJMILL_RUNTIME"
        );
    }

    #[test]
    fn cuda_libraries_are_found_beside_the_runtime_in_both_layouts_and_in_load_order() {
        let root = tempfile::tempdir().unwrap();
        let packages = root.path().join("site-packages");
        let runtime = place(&packages, "onnxruntime/capi/libonnxruntime.so.1.31.1");
        for file in [
            "cu13/lib/libcublas.so.13",
            "cu13/lib/libcublasLt.so.13",
            "cu13/lib/libcudart.so.13",
            "cudnn/lib/libcudnn.so.9",
            "cudnn/lib/libcudnn.so",
        ] {
            place(&packages.join("nvidia"), file);
        }
        let found = cuda_libraries(Some(&runtime));
        let ours = found
            .iter()
            .filter(|path| path.starts_with(fs::canonicalize(root.path()).unwrap()));
        let names: Vec<_> = ours
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            [
                "libcudart.so.13",
                "libcublasLt.so.13",
                "libcublas.so.13",
                "libcudnn.so.9"
            ]
        );
    }
}
