//! The links of groups. The library passes over links that lead to other files or to other paths of
//! the same file, so what is behind them would be left out in silence.

use std::collections::HashSet;

use super::dense;
use super::image::{Bytes, Image, Parsed, Reader};

/// The links of a group.
pub(super) struct Links {
    pub(super) links: Vec<Link>,
    /// Whether the group is of the older kind, a table of symbols.
    pub(super) are_symbols: bool,
}

/// A link: a member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) target: Target,
}

/// What a link leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The object at an address.
    Hard(u64),
    /// A path in the same file, from the root if it begins with a slash, or else from the group.
    Soft(String),
    /// A path in another file.
    External { file: String, path: String },
    /// What a program of its own knows.
    Other(u64),
}

/// The kinds of messages that describe links.
const LINK_INFO: u64 = 2;
const LINK: u64 = 6;
const CONTINUED: u64 = 16;
const SYMBOL_TABLE: u64 = 17;

/// The most blocks of the description of an object.
const MOST_BLOCKS: usize = 1 << 16;

impl Image {
    /// Whether the object at `address` is a group.
    ///
    /// # Errors
    /// Returns an error if its description cannot be read.
    pub(super) fn is_group(&self, address: u64) -> Parsed<bool> {
        Ok(!messages(&self.reader(), address)?.is_empty())
    }

    /// Returns the links of the group at `address`; `None` if another object is there.
    ///
    /// # Errors
    /// Returns an error if the links cannot be read.
    pub(super) fn links(&self, address: u64) -> Parsed<Option<Links>> {
        let file = &self.reader();
        let messages = messages(file, address)?;
        let of = |kind: u64| messages.iter().filter(move |(known, _)| *known == kind);
        if let Some((_, table)) = of(SYMBOL_TABLE).next() {
            let mut table = Bytes(table);
            let (tree, heap) = (table.number(self.offset)?, table.number(self.offset)?);
            return Ok(Some(Links {
                links: symbols(file, tree, heap)?,
                are_symbols: true,
            }));
        }
        if messages.is_empty() {
            return Ok(None);
        }
        let mut links = Vec::new();
        for (_, message) in of(LINK) {
            links.push(link(file, message)?);
        }
        if let Some((_, info)) = of(LINK_INFO).next() {
            let mut info = Bytes(info);
            info.take(1)?;
            let ordered = info.number(1)? & 1 == 1;
            info.take(if ordered { 8 } else { 0 })?;
            let (heap, tree) = (info.number(self.offset)?, info.number(self.offset)?);
            if heap != self.undefined() {
                for message in dense::messages(file, heap, tree)? {
                    links.push(link(file, &message)?);
                }
            }
        }
        Ok(Some(Links {
            links,
            are_symbols: false,
        }))
    }
}

/// Returns the messages about links of the object at `address`, with their kinds.
fn messages(file: &Reader, address: u64) -> Parsed<Vec<(u64, Vec<u8>)>> {
    let start = file.read(address, 4)?;
    let (is_new, flags, first) = if start == b"OHDR" {
        let head = file.read(address, 6)?;
        let flags = head[5];
        let mut skipped = 6;
        skipped += if flags & 0x20 == 0 { 0 } else { 16 };
        skipped += if flags & 0x10 == 0 { 0 } else { 4 };
        let width = 1_u64 << (flags & 3);
        let size = file.read(address.saturating_add(skipped), width)?;
        let size = Bytes(&size).number(width as usize)?;
        (true, flags, (address.saturating_add(skipped + width), size))
    } else if start.first() == Some(&1) {
        let head = file.read(address, 12)?;
        let size = Bytes(&head[8..]).number(4)?;
        (false, 0, (address.saturating_add(16), size))
    } else {
        return Err(format!("there is no object at the address {address}"));
    };
    let mut blocks = vec![first];
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    while let Some((at, size)) = blocks.pop() {
        if !seen.insert(at) || seen.len() > MOST_BLOCKS {
            return Err("the description of an object contains itself".to_owned());
        }
        let bytes = file.read(at, size)?;
        let mut bytes = Bytes(&bytes);
        if is_new && seen.len() > 1 {
            // Later blocks have a signature, and a checksum at the end.
            bytes.take(4)?;
            bytes = Bytes(bytes.take(bytes.0.len().saturating_sub(4))?);
        }
        let head = match (is_new, flags & 4 == 0) {
            (false, _) => 8,
            (true, true) => 4,
            (true, false) => 6,
        };
        while bytes.0.len() >= head {
            let kind = bytes.number(if is_new { 1 } else { 2 })?;
            let size = bytes.count(2)?;
            bytes.take(head - if is_new { 3 } else { 4 })?;
            let data = bytes.take(size)?;
            match kind {
                CONTINUED => {
                    let mut data = Bytes(data);
                    let next = data.number(file.image.offset)?;
                    blocks.push((next, data.number(file.image.length)?));
                }
                LINK | LINK_INFO | SYMBOL_TABLE => found.push((kind, data.to_vec())),
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Returns the text in `bytes` up to the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

/// Parses the message of a link.
fn link(file: &Reader, message: &[u8]) -> Parsed<Link> {
    let mut bytes = Bytes(message);
    let (version, flags) = (bytes.number(1)?, bytes.number(1)?);
    if version != 1 {
        return Err(format!("a link has the unknown version {version}"));
    }
    let kind = bytes.number(if flags & 8 == 0 { 0 } else { 1 })?;
    bytes.take(if flags & 4 == 0 { 0 } else { 8 })?;
    bytes.take(if flags & 16 == 0 { 0 } else { 1 })?;
    let length = bytes.count(1 << (flags & 3))?;
    let name = String::from_utf8_lossy(bytes.take(length)?).into_owned();
    let mut content = || -> Parsed<&[u8]> {
        let length = bytes.count(2)?;
        bytes.take(length)
    };
    let target = match kind {
        0 => Target::Hard(bytes.number(file.image.offset)?),
        1 => Target::Soft(text(content()?)),
        64 => {
            // The first byte is a version and flags.
            let names = content()?.get(1..).unwrap_or_default();
            let end = names.iter().position(|byte| *byte == 0);
            let path = names.get(end.unwrap_or(names.len()) + 1..);
            Target::External {
                file: text(names),
                path: text(path.unwrap_or_default()),
            }
        }
        other => Target::Other(other),
    };
    Ok(Link { name, target })
}

/// Returns the links of a group of the older kind, whose tree is at `tree` and whose names are in
/// the heap at `heap`.
fn symbols(file: &Reader, tree: u64, heap: u64) -> Parsed<Vec<Link>> {
    let (offset, length) = (file.image.offset, file.image.length);
    let head = file.part(heap, (8 + 2 * length + offset) as u64, b"HEAP")?;
    let mut head = Bytes(&head);
    head.take(4)?;
    let size = head.number(length)?;
    head.take(length)?;
    let names = file.read(head.number(offset)?, size)?;
    let named = |place: u64| {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let bytes = names.get(place..);
        bytes
            .map(text)
            .ok_or_else(|| "the name of a link is outside of the heap of names".to_owned())
    };
    let (mut links, mut seen) = (Vec::new(), HashSet::new());
    let mut nodes = vec![tree];
    while let Some(address) = nodes.pop() {
        if !seen.insert(address) {
            return Err("the tree of its links contains itself".to_owned());
        }
        let start = file.read(address, 8)?;
        let mut start = Bytes(&start);
        if start.take(4)? == b"SNOD" {
            start.take(2)?;
            let count = start.number(2)?;
            let entry = 2 * offset as u64 + 24;
            let entries = file.read(address.saturating_add(8), count * entry)?;
            let mut entries = Bytes(&entries);
            for _ in 0..count {
                let name = named(entries.number(offset)?)?;
                let object = entries.number(offset)?;
                let cached = entries.number(4)?;
                entries.take(4)?;
                let mut scratch = Bytes(entries.take(16)?);
                let target = match cached {
                    2 => Target::Soft(named(scratch.number(4)?)?),
                    _ => Target::Hard(object),
                };
                links.push(Link { name, target });
            }
            continue;
        }
        let node = file.part(address, 8, b"TREE")?;
        let mut node = Bytes(&node);
        node.take(2)?;
        let count = node.number(2)?;
        let children = count * (length + offset) as u64;
        let children = file.read(address.saturating_add(8 + 2 * offset as u64), children)?;
        let mut children = Bytes(&children);
        let first = nodes.len();
        for _ in 0..count {
            children.take(length)?;
            nodes.push(children.number(offset)?);
        }
        // The first child comes next.
        nodes[first..].reverse();
    }
    Ok(links)
}
