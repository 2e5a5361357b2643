//! Writes HDF5 front to back: arrays as they come, one block in memory, groups and the superblock
//! last.
//!
//! The library that reads HDF5 assembles a file in memory, so this module writes the few structures
//! that a trainer's file needs, following the HDF5 File Format Specification, version 3.0:
//! superblock 0, version 1 object headers, groups as symbol tables, contiguous arrays,
//! variable-length text in global heaps. Every HDF5 library reads these. Memory holds the name and
//! address of each object.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use arrow::datatypes::DataType;

use super::super::arrays::ArraySink;
use super::encode::{Element, dataspace, datatype, pad, symbol};
use crate::dataset::store::PatchedFile;
use crate::error::{Error, Result};

/// An address that means "nowhere".
const UNDEFINED: u64 = u64::MAX;

/// The number of entries of a symbol node and of children of a tree node: twice the `K` in the
/// superblock.
const SYMBOLS: usize = 8;
const CHILDREN: usize = 32;

/// Bytes of the superblock, of a symbol node, of a tree node, and of the smallest global heap.
const SUPERBLOCK: u64 = 96;
const SYMBOL_NODE: u64 = 8 + 40 * SYMBOLS as u64;
const TREE_NODE: u64 = 24 + 8 * (2 * CHILDREN as u64 + 1);
const LEAST_HEAP: u64 = 4096;

/// An attribute of an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Attribute {
    /// A whole number.
    Int(i64),
    /// A float.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// UTF-8.
    Text(String),
}

/// An HDF5 file while it is written.
pub(crate) struct Hdf5Writer {
    file: BufWriter<PatchedFile>,
    at: u64,
    root: Node,
    /// The array that an [`ArraySink`] has begun, and its shape.
    streamed: Option<(Open, Vec<u64>)>,
}

impl ArraySink for Hdf5Writer {
    fn begin(&mut self, name: &str, element: &DataType, rows: u64, row: &[u64]) -> Result<()> {
        let open = Hdf5Writer::begin(self, name, Element::Plain(element.clone()))?;
        self.streamed = Some((
            open,
            std::iter::once(rows).chain(row.iter().copied()).collect(),
        ));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Hdf5Writer::write(self, bytes)
    }

    fn end(&mut self) -> Result<()> {
        match self.streamed.take() {
            Some((open, shape)) => Hdf5Writer::end(self, open, &shape, &[]),
            None => Ok(()),
        }
    }
}

/// A group or a finished array.
enum Node {
    Group {
        children: BTreeMap<String, Node>,
        attributes: Vec<(String, Attribute)>,
    },
    Object(u64),
}

impl Node {
    fn group() -> Node {
        Node::Group {
            children: BTreeMap::new(),
            attributes: Vec::new(),
        }
    }
}

/// An array whose data is being written.
#[must_use]
pub(crate) struct Open {
    path: String,
    element: Element,
    start: u64,
}

impl Hdf5Writer {
    /// Creates the file, which must not exist.
    ///
    /// # Errors
    /// Returns an error if the file cannot be created.
    pub(crate) fn create(path: &Path) -> Result<Hdf5Writer> {
        let file = BufWriter::with_capacity(1 << 20, PatchedFile::create(path)?);
        let mut hdf5 = Hdf5Writer {
            file,
            at: 0,
            root: Node::group(),
            streamed: None,
        };
        hdf5.write(&[0; SUPERBLOCK as usize])?;
        Ok(hdf5)
    }

    /// Begins the array `path`, with its groups before slashes. [`Hdf5Writer::write`] then appends
    /// its elements, little-endian, row by row.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(crate) fn begin(&mut self, path: &str, element: Element) -> Result<Open> {
        self.align()?;
        Ok(Open {
            path: path.to_owned(),
            element,
            start: self.at,
        })
    }

    /// Appends bytes to the array that was begun.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        Ok(self.file.write_all(bytes)?)
    }

    /// Ends the array that was begun. Its shape is known now.
    ///
    /// # Errors
    /// Returns an error if the number of bytes does not match the shape, or the file cannot be
    /// written.
    pub(crate) fn end(
        &mut self,
        open: Open,
        shape: &[u64],
        attributes: &[(String, Attribute)],
    ) -> Result<()> {
        let bytes = self.at - open.start;
        let datatype = datatype(&open.element)?;
        let size = u64::from(u32::from_le_bytes([
            datatype[4],
            datatype[5],
            datatype[6],
            datatype[7],
        ]));
        if shape.iter().product::<u64>() * size != bytes {
            return Err(Error::failed(format!(
                "`{}` has {bytes} bytes, which do not match the shape {shape:?}",
                open.path
            )));
        }
        let address = if bytes == 0 { UNDEFINED } else { open.start };
        let mut layout = vec![3, 1];
        layout.extend_from_slice(&address.to_le_bytes());
        layout.extend_from_slice(&bytes.to_le_bytes());
        let mut messages = vec![
            (0x0001, dataspace(shape)),
            (0x0003, datatype),
            // Space is allocated when data is written; there is no fill value.
            (0x0005, vec![2, 2, 2, 1, 0, 0, 0, 0]),
            (0x0008, layout),
        ];
        for (name, value) in attributes {
            messages.push((0x000c, self.attribute(name, value)?));
        }
        let header = self.header(&messages)?;
        self.place(&open.path, Node::Object(header))
    }

    /// Writes a whole array.
    ///
    /// # Errors
    /// Returns the errors of [`Hdf5Writer::end`].
    pub(crate) fn array(
        &mut self,
        path: &str,
        element: Element,
        shape: &[u64],
        bytes: &[u8],
    ) -> Result<()> {
        let open = self.begin(path, element)?;
        self.write(bytes)?;
        self.end(open, shape, &[])
    }

    /// Writes an array of texts, or a single text if `shape` is empty.
    ///
    /// # Errors
    /// Returns the errors of [`Hdf5Writer::end`].
    pub(crate) fn texts(&mut self, path: &str, shape: &[u64], texts: &[&str]) -> Result<()> {
        let references = self.text(texts)?;
        self.array(path, Element::Text, shape, &references)
    }

    /// Sets the attributes of the group `path`, and creates the group if it does not exist.
    ///
    /// # Errors
    /// Returns an error if an array has that name.
    pub(crate) fn group(&mut self, path: &str, attributes: Vec<(String, Attribute)>) -> Result<()> {
        match self.find(path)? {
            Node::Group {
                attributes: known, ..
            } => known.extend(attributes),
            Node::Object(_) => {
                return Err(Error::failed(format!(
                    "`{path}` is both an array and a group"
                )));
            }
        }
        Ok(())
    }

    /// Writes the group `path` and forgets its content except for its address. Files of very many
    /// groups need this.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(crate) fn close(&mut self, path: &str) -> Result<()> {
        let node = std::mem::replace(self.find(path)?, Node::group());
        let address = self.tree(node)?;
        *self.find(path)? = Node::Object(address);
        Ok(())
    }

    /// Writes the groups and the superblock, and makes the file durable.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(crate) fn finish(mut self) -> Result<()> {
        let root = std::mem::replace(&mut self.root, Node::group());
        let root = self.tree(root)?;
        self.align()?;
        let mut block = b"\x89HDF\r\n\x1a\n".to_vec();
        block.extend_from_slice(&[0, 0, 0, 0, 0, 8, 8, 0]);
        block.extend_from_slice(&(SYMBOLS as u16 / 2).to_le_bytes());
        block.extend_from_slice(&(CHILDREN as u16 / 2).to_le_bytes());
        block.extend_from_slice(&[0; 4]);
        for address in [0, UNDEFINED, self.at, UNDEFINED] {
            block.extend_from_slice(&address.to_le_bytes());
        }
        block.extend_from_slice(&symbol(0, root));
        let mut file = self
            .file
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)?;
        file.patch(0, &block)?;
        file.finish()
    }

    fn align(&mut self) -> Result<()> {
        let over = (self.at % 8) as usize;
        if over > 0 {
            self.write(&[0; 8][over..])
        } else {
            Ok(())
        }
    }

    /// Returns the node at `path`, and creates the groups that do not exist.
    fn find(&mut self, path: &str) -> Result<&mut Node> {
        let mut node = &mut self.root;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            match node {
                Node::Group { children, .. } => {
                    node = children.entry(part.to_owned()).or_insert_with(Node::group)
                }
                Node::Object(_) => {
                    return Err(Error::failed(format!(
                        "`{part}` of `{path}` is inside an object that is not a group"
                    )));
                }
            }
        }
        Ok(node)
    }

    fn place(&mut self, path: &str, placed: Node) -> Result<()> {
        let node = self.find(path)?;
        match node {
            Node::Group {
                children,
                attributes,
            } if children.is_empty() && attributes.is_empty() => *node = placed,
            _ => return Err(Error::failed(format!("two arrays have the name `{path}`"))),
        }
        Ok(())
    }

    /// Writes texts into a global heap and returns the elements of an array of [`Element::Text`].
    fn text(&mut self, texts: &[&str]) -> Result<Vec<u8>> {
        let mut references = Vec::with_capacity(texts.len() * 16);
        // A heap numbers its objects with 16 bits.
        for texts in texts.chunks(4096) {
            self.align()?;
            let address = self.at;
            let mut heap = Vec::new();
            for (index, text) in (1_u16..).zip(texts) {
                heap.extend_from_slice(&index.to_le_bytes());
                heap.extend_from_slice(&[1, 0, 0, 0, 0, 0]);
                heap.extend_from_slice(&(text.len() as u64).to_le_bytes());
                heap.extend_from_slice(text.as_bytes());
                pad(&mut heap);
                let length = u32::try_from(text.len())
                    .map_err(|_| Error::failed("a text of 4 GiB or more cannot be written"))?;
                references.extend_from_slice(&length.to_le_bytes());
                references.extend_from_slice(&address.to_le_bytes());
                references.extend_from_slice(&u32::from(index).to_le_bytes());
            }
            // The free space at the end of a heap is an object with the number 0.
            let size = (16 + heap.len() as u64 + 16).max(LEAST_HEAP);
            let free = size - 16 - heap.len() as u64;
            heap.extend_from_slice(&[0; 8]);
            heap.extend_from_slice(&free.to_le_bytes());
            heap.resize((size - 16) as usize, 0);
            self.write(b"GCOL\x01\0\0\0")?;
            self.write(&size.to_le_bytes())?;
            self.write(&heap)?;
        }
        Ok(references)
    }

    fn attribute(&mut self, name: &str, value: &Attribute) -> Result<Vec<u8>> {
        let (element, data) = match value {
            Attribute::Int(value) => (
                Element::Plain(DataType::Int64),
                value.to_le_bytes().to_vec(),
            ),
            Attribute::Float(value) => (
                Element::Plain(DataType::Float64),
                value.to_le_bytes().to_vec(),
            ),
            Attribute::Bool(value) => (Element::Plain(DataType::Boolean), vec![u8::from(*value)]),
            Attribute::Text(value) => (Element::Text, self.text(&[value])?),
        };
        let (datatype, dataspace) = (datatype(&element)?, dataspace(&[]));
        let mut message = vec![1, 0];
        for size in [name.len() + 1, datatype.len(), dataspace.len()] {
            let size = u16::try_from(size)
                .map_err(|_| Error::failed(format!("the attribute name `{name}` is too long")))?;
            message.extend_from_slice(&size.to_le_bytes());
        }
        let mut name = name.as_bytes().to_vec();
        name.push(0);
        for mut part in [name, datatype, dataspace] {
            pad(&mut part);
            message.extend_from_slice(&part);
        }
        message.extend_from_slice(&data);
        Ok(message)
    }

    /// Writes an object header and returns its address.
    fn header(&mut self, messages: &[(u16, Vec<u8>)]) -> Result<u64> {
        let mut body = Vec::new();
        for (kind, data) in messages {
            let mut data = data.clone();
            pad(&mut data);
            body.extend_from_slice(&kind.to_le_bytes());
            let size = u16::try_from(data.len())
                .map_err(|_| Error::failed("a description of an array is too large for HDF5"))?;
            body.extend_from_slice(&size.to_le_bytes());
            body.extend_from_slice(&[0; 4]);
            body.extend_from_slice(&data);
        }
        let count = u16::try_from(messages.len())
            .map_err(|_| Error::failed("an object has too many attributes for HDF5"))?;
        self.align()?;
        let address = self.at;
        self.write(&[1, 0])?;
        self.write(&count.to_le_bytes())?;
        self.write(&1_u32.to_le_bytes())?;
        self.write(&(body.len() as u32).to_le_bytes())?;
        self.write(&[0; 4])?;
        self.write(&body)?;
        Ok(address)
    }

    /// Writes a node with its content and returns its address.
    fn tree(&mut self, node: Node) -> Result<u64> {
        let (children, attributes) = match node {
            Node::Object(address) => return Ok(address),
            Node::Group {
                children,
                attributes,
            } => (children, attributes),
        };
        // In the order of their bytes, which is the order of the map.
        let mut entries = Vec::with_capacity(children.len());
        let mut names = vec![0; 8];
        for (name, child) in children {
            entries.push((names.len() as u64, self.tree(child)?));
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            pad(&mut names);
        }
        self.align()?;
        let heap = self.at;
        self.write(b"HEAP\0\0\0\0")?;
        for value in [names.len() as u64, 1, heap + 32] {
            self.write(&value.to_le_bytes())?;
        }
        self.write(&names)?;
        let tree = self.symbols(&entries)?;
        let mut table = tree.to_le_bytes().to_vec();
        table.extend_from_slice(&heap.to_le_bytes());
        let mut messages = vec![(0x0011, table)];
        for (name, value) in &attributes {
            messages.push((0x000c, self.attribute(name, value)?));
        }
        self.header(&messages)
    }

    /// Writes the tree of a group's entries, pairs of the offset of the name and the address, and
    /// returns the address of its root.
    fn symbols(&mut self, entries: &[(u64, u64)]) -> Result<u64> {
        // Each child with the offset of its greatest name.
        let mut level: Vec<(u64, u64)> = Vec::with_capacity(entries.len().div_ceil(SYMBOLS));
        for entries in entries.chunks(SYMBOLS) {
            let mut node = b"SNOD\x01\0".to_vec();
            node.extend_from_slice(&(entries.len() as u16).to_le_bytes());
            entries
                .iter()
                .for_each(|(name, address)| node.extend_from_slice(&symbol(*name, *address)));
            node.resize(SYMBOL_NODE as usize, 0);
            level.push((entries.last().map_or(0, |(name, _)| *name), self.at));
            self.write(&node)?;
        }
        for depth in 0_u8.. {
            let first = self.at;
            let count = level.len().div_ceil(CHILDREN).max(1);
            let mut above = Vec::with_capacity(count);
            let mut smallest = 0;
            for index in 0..count {
                let children = &level[(index * CHILDREN).min(level.len())
                    ..((index + 1) * CHILDREN).min(level.len())];
                let sibling = |exists: bool, index: usize| {
                    if exists {
                        first + index as u64 * TREE_NODE
                    } else {
                        UNDEFINED
                    }
                };
                let mut node = b"TREE\0".to_vec();
                node.push(depth);
                node.extend_from_slice(&(children.len() as u16).to_le_bytes());
                node.extend_from_slice(&sibling(index > 0, index.wrapping_sub(1)).to_le_bytes());
                node.extend_from_slice(&sibling(index + 1 < count, index + 1).to_le_bytes());
                node.extend_from_slice(&u64::to_le_bytes(smallest));
                for (greatest, address) in children {
                    node.extend_from_slice(&address.to_le_bytes());
                    node.extend_from_slice(&greatest.to_le_bytes());
                    smallest = *greatest;
                }
                node.resize(TREE_NODE as usize, 0);
                above.push((smallest, self.at));
                self.write(&node)?;
            }
            if count == 1 {
                return Ok(first);
            }
            level = above;
        }
        Err(Error::failed("a group has too many members"))
    }
}

#[cfg(test)]
mod tests {
    use hdf5_pure::{AttrValue, File};
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Hdf5Writer)) -> (tempfile::TempDir, File) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.h5");
        let mut file = Hdf5Writer::create(&path).unwrap();
        write(&mut file);
        file.finish().unwrap();
        let file = File::open(&path).unwrap();
        (folder, file)
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// The number of members varies: none, about as many as one node of the tree holds, and
        /// enough for several levels.
        #[test]
        fn every_member_is_found(
            count in prop_oneof![0_usize..20, 240_usize..270, Just(1025_usize), Just(9000_usize)],
            closed in any::<bool>(),
        ) {
            let (_folder, file) = written(|file| {
                for index in 0..count {
                    let name = format!("group/member_{index}");
                    let value = floats(&[index as f32]);
                    let element = Element::Plain(DataType::Float32);
                    file.array(&format!("{name}/x"), element, &[1], &value).unwrap();
                    let id = ("id".to_owned(), Attribute::Int(index as i64));
                    file.group(&name, vec![id]).unwrap();
                    if closed {
                        file.close(&name).unwrap();
                    }
                }
                file.group("group", Vec::new()).unwrap();
            });
            let group = file.group("group").unwrap();
            prop_assert_eq!(group.groups().unwrap().len(), count);
            for index in (0..count).step_by(1 + count / 7) {
                let member = group.group(&format!("member_{index}")).unwrap();
                let values = member.dataset("x").unwrap().read_f32().unwrap();
                prop_assert_eq!(values, vec![index as f32]);
                prop_assert_eq!(member.attrs().unwrap()["id"].as_i64(), Some(index as i64));
            }
        }

        #[test]
        fn texts_of_any_length_come_back(texts in prop::collection::vec("[a-zé ]{0,40}", 0..30)) {
            let (_folder, file) = written(|file| {
                let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
                file.texts("texts", &[texts.len() as u64], &borrowed).unwrap();
            });
            prop_assert_eq!(file.dataset("texts").unwrap().read_string().unwrap(), texts);
        }
    }

    #[test]
    fn types_shapes_and_attributes_come_back() {
        let long = "x".repeat(100_000);
        let (_folder, file) = written(|file| {
            file.array(
                "a/floats",
                Element::Plain(DataType::Float64),
                &[2, 2],
                &[1.0_f64, 2.0, 3.0, 4.0].map(f64::to_le_bytes).concat(),
            )
            .unwrap();
            file.array(
                "a/flags",
                Element::Plain(DataType::Boolean),
                &[3],
                &[1, 0, 1],
            )
            .unwrap();
            file.array("a/none", Element::Plain(DataType::Float32), &[0, 3], &[])
                .unwrap();
            file.array(
                "one",
                Element::Plain(DataType::Int16),
                &[],
                &7_i16.to_le_bytes(),
            )
            .unwrap();
            let attributes = vec![
                ("text".to_owned(), Attribute::Text(long.clone())),
                ("truth".to_owned(), Attribute::Bool(true)),
                ("float".to_owned(), Attribute::Float(-0.5)),
            ];
            file.group("a", attributes).unwrap();
        });
        assert_eq!(file.dataset("a/floats").unwrap().shape().unwrap(), [2, 2]);
        assert_eq!(
            file.dataset("a/floats").unwrap().read_f64().unwrap(),
            [1.0, 2.0, 3.0, 4.0]
        );
        assert_eq!(
            file.dataset("a/flags").unwrap().read_raw().unwrap(),
            [1, 0, 1]
        );
        assert_eq!(file.dataset("a/none").unwrap().shape().unwrap(), [0, 3]);
        assert_eq!(file.dataset("one").unwrap().read_i64().unwrap(), [7]);
        let attributes = file.group("a").unwrap().attrs().unwrap();
        assert_eq!(attributes["text"].as_str(), Some(long.as_str()));
        assert_eq!(attributes["float"].as_f64(), Some(-0.5));
        assert!(!matches!(attributes["truth"], AttrValue::String(_)));
    }

    #[test]
    fn arrays_that_do_not_fit_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = Hdf5Writer::create(&folder.path().join("a.h5")).unwrap();
        assert!(
            file.array("x", Element::Plain(DataType::Float32), &[3], &[0; 8])
                .is_err()
        );
        file.array("y", Element::Plain(DataType::Float32), &[2], &[0; 8])
            .unwrap();
        assert!(
            file.array("y", Element::Plain(DataType::Float32), &[2], &[0; 8])
                .is_err()
        );
        assert!(
            file.array("y/z", Element::Plain(DataType::Float32), &[2], &[0; 8])
                .is_err()
        );
        assert!(
            file.array("z", Element::Plain(DataType::Utf8), &[0], &[])
                .is_err()
        );
    }
}
