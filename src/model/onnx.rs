//! Onnx runtime.

use std::path::Path;

use super::{Data, DataMut, Geometry, Options, Spec, library};
use crate::error::{Error, Result};

pub struct OnnxRuntime;
pub struct OnnxSession;
impl OnnxRuntime {
    #[allow(dead_code)]
    pub(super) fn load(_found: &library::Found, _options: &Options) -> Result<OnnxRuntime> { Err(Error::failed("not available")) }
    pub(super) fn version(&self) -> String { String::new() }
    #[allow(dead_code)]
    pub(super) fn devices(&self) -> Vec<String> { Vec::new() }
    #[allow(dead_code)]
    pub(super) fn note(&self) -> Option<String> { None }
    pub(super) fn spec(&self, _path: &Path) -> Result<Spec> { Err(Error::failed("not available")) }
    pub(super) fn open(&self, _spec: &Spec, _geometry: &Geometry, _workers: usize) -> Result<Vec<OnnxSession>> { Err(Error::failed("not available")) }
}
impl OnnxSession {
    pub(super) fn input(&mut self, _index: usize) -> DataMut<'_> { DataMut::F32(&mut []) }
    pub(super) fn run(&mut self, _rows: usize) -> Result<()> { Ok(()) }
    pub(super) fn output(&self, _index: usize) -> Data<'_> { Data::F32(&[]) }
}
