//! Groups of HDF5 files, and what their links lead to.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use hdf5_pure::Dataset;

use super::image::{Image, Parsed};
use super::links::{Link, Links, Target};
use super::page_cache::PageCache;
use crate::error::{Error, Result};

/// The most soft links that a path may lead through.
const MOST_HOPS: usize = 16;

/// An open file.
pub(crate) struct File(Arc<Opened>);

struct Opened {
    library: hdf5_pure::File,
    image: Image,
}

/// A group of a file.
pub(crate) struct Group {
    library: hdf5_pure::Group,
    file: Arc<Opened>,
    /// The path from the root, without soft links.
    path: String,
    pub(super) address: u64,
}

/// What a name leads to.
pub(super) enum Found {
    Group(Group),
    Array(Dataset),
    /// A link that is not followed, in words that go on with its name.
    Unread(String),
    /// Nothing, or a type that has a name.
    Nothing,
}

/// The place of an object in a file.
enum Place {
    At { path: String, address: u64 },
    Unread(String),
    Nothing,
}

/// Opens the file at `path`. Its content is read on demand.
pub(crate) fn open(path: &Path) -> Result<File> {
    let open = || -> Result<Opened, hdf5_pure::Error> {
        let source = PageCache::open(path).map_err(hdf5_pure::Error::Io)?;
        let library = hdf5_pure::File::from_source(source.clone())?;
        let image = Image::new(source, library.superblock());
        Ok(Opened { library, image })
    };
    let opened = open().map_err(|error| {
        Error::failed(format!(
            "{}: not a readable HDF5 file: {error}",
            path.display()
        ))
        .hint("the file may be cut short: fetch or write it again")
    })?;
    Ok(File(Arc::new(opened)))
}

/// Returns the error for something that the library cannot read.
pub(super) fn unreadable(what: String) -> Error {
    Error::failed(what).hint("the file may be cut short or damaged: fetch or write it again")
}

/// Returns the error for the link `name`, which is not followed for the reason `why`.
pub(super) fn unread(name: &str, why: &str) -> Error {
    Error::failed(format!("`{name}` {why}")).hint(
        "copy the file with h5py's `source.copy(source[name], target, name, \
         expand_soft=True, expand_external=True)` for each of its members, or remove the link",
    )
}

impl File {
    pub(crate) fn root(&self) -> Group {
        Group {
            library: self.0.library.root(),
            file: Arc::clone(&self.0),
            path: String::new(),
            address: self.0.image.root,
        }
    }
}

impl Group {
    /// Returns the library's group.
    pub(super) fn library(&self) -> &hdf5_pure::Group {
        &self.library
    }

    /// Returns the names of all members, sorted.
    ///
    /// # Errors
    /// Returns an error if they cannot be listed.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let links = self.links()?.links.into_iter();
        let mut names: Vec<String> = links.map(|link| link.name).collect();
        names.sort();
        Ok(names)
    }

    fn failed(&self, what: impl std::fmt::Display) -> Error {
        unreadable(format!("cannot read the group `/{}`: {what}", self.path))
    }

    /// Returns the links of the group.
    fn links(&self) -> Result<Links> {
        let links = self.file.image.links(self.address);
        let links = links.map_err(|error| self.failed(error))?;
        links.ok_or_else(|| self.failed("it is not a group"))
    }

    /// Returns the path of the member `name`.
    fn path_of(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        }
    }

    /// Returns what the path `name` leads to from the group.
    pub(super) fn find(&self, name: &str) -> Result<Found> {
        let failed = |error: String| self.failed(error);
        match self.place(name).map_err(failed)? {
            Place::At { path, address } => self.at(path, address),
            Place::Unread(why) => Ok(Found::Unread(why)),
            Place::Nothing => Ok(Found::Nothing),
        }
    }

    /// Opens the object at `address`, which is at `path`.
    fn at(&self, path: String, address: u64) -> Result<Found> {
        let failed = |error: hdf5_pure::Error| self.failed(error);
        let is_group = self.file.image.is_group(address);
        if is_group.map_err(|error| self.failed(error))? {
            return Ok(Found::Group(Group {
                library: self.file.library.group(&path).map_err(failed)?,
                file: Arc::clone(&self.file),
                path,
                address,
            }));
        }
        match self.file.library.dataset(&path) {
            Ok(dataset) => Ok(Found::Array(dataset)),
            Err(hdf5_pure::Error::NotADataset(_)) => Ok(Found::Nothing),
            Err(error) => Err(failed(error)),
        }
    }

    /// Returns the place that the path `name` leads to from the group.
    fn place(&self, name: &str) -> Parsed<Place> {
        let parts = |path: &str| -> VecDeque<String> {
            let parts = path.split('/').filter(|part| !["", "."].contains(part));
            parts.map(str::to_owned).collect()
        };
        let mut left = parts(name);
        let (mut path, mut address, mut hops) = (self.path.clone(), self.address, 0);
        let mut followed: Option<String> = None;
        while let Some(part) = left.pop_front() {
            let absent = || match &followed {
                Some(target) => {
                    let why = format!("is a soft link to `{target}`, where nothing is");
                    Place::Unread(why)
                }
                None => Place::Nothing,
            };
            let Some(links) = self.file.image.links(address)? else {
                return Ok(absent());
            };
            let mut links = links.links.into_iter();
            let Some(link) = links.find(|link| link.name == part) else {
                return Ok(absent());
            };
            match link.target {
                Target::Hard(at) => {
                    address = at;
                    path = match path.as_str() {
                        "" => part,
                        path => format!("{path}/{part}"),
                    };
                }
                Target::Soft(target) => {
                    hops += 1;
                    if hops > MOST_HOPS {
                        let why = "is a soft link that leads to itself, or through too many links";
                        return Ok(Place::Unread(why.to_owned()));
                    }
                    if target.starts_with('/') {
                        (path, address) = (String::new(), self.file.image.root);
                    }
                    let mut parts = parts(&target);
                    parts.append(&mut left);
                    left = parts;
                    followed.get_or_insert(target);
                }
                Target::External { file, path } => {
                    let linked = match &followed {
                        Some(target) => format!("is a soft link to `{target}`, which is"),
                        None => "is".to_owned(),
                    };
                    return Ok(Place::Unread(format!(
                        "{linked} a link to `{path}` in the file {file}, and links to other files \
                         are not followed"
                    )));
                }
                Target::Other(kind) => {
                    return Ok(Place::Unread(format!(
                        "is a link of the unknown kind {kind}"
                    )));
                }
            }
        }
        Ok(Place::At { path, address })
    }

    /// Returns the members that `wanted` accepts, with their names, in the order of the names.
    ///
    /// # Errors
    /// Returns an error if the members cannot be listed.
    pub(super) fn members(&self, wanted: Wanted) -> Result<Vec<(String, Found)>> {
        let failed = |error: hdf5_pure::Error| self.failed(error);
        let Links { links, are_symbols } = self.links()?;
        let is_plain = |link: &Link| matches!(link.target, Target::Hard(_));
        let (plain, others): (Vec<Link>, Vec<Link>) = links.into_iter().partition(is_plain);
        let mut found = Vec::with_capacity(plain.len() + others.len());
        for link in &others {
            found.push((link.name.clone(), self.find(&link.name)?));
        }
        if are_symbols && !others.is_empty() {
            // The library cannot list symbols among which are such links.
            for link in plain {
                if let Target::Hard(address) = link.target {
                    let member = self.at(self.path_of(&link.name), address)?;
                    found.push((link.name, member));
                }
            }
            found.sort_by(|(a, _), (b, _)| a.cmp(b));
            return Ok(found);
        }
        if wanted != Wanted::Groups {
            let arrays = self.library.iter_datasets().map_err(failed)?;
            found.extend(arrays.map(|(name, array)| (name, Found::Array(array))));
        }
        if wanted != Wanted::Arrays {
            let mut addresses: HashMap<String, u64> = HashMap::with_capacity(plain.len());
            for link in plain {
                if let Target::Hard(address) = link.target {
                    addresses.insert(link.name, address);
                }
            }
            for (name, library) in self.library.iter_groups().map_err(failed)? {
                let address = addresses.get(&name).copied();
                let address =
                    address.ok_or_else(|| self.failed("its links contradict one another"))?;
                let group = Group {
                    library,
                    file: Arc::clone(&self.file),
                    path: self.path_of(&name),
                    address,
                };
                found.push((name, Found::Group(group)));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }
}

/// Kinds of members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Arrays,
    Groups,
    All,
}

/// Returns the group `name` in `group`; `None` if there is none.
///
/// # Errors
/// Returns an error if the group exists and cannot be read.
pub(crate) fn member(group: &Group, name: &str) -> Result<Option<Group>> {
    match group.find(name)? {
        Found::Group(found) => Ok(Some(found)),
        Found::Unread(why) => Err(unread(name, &why)),
        Found::Array(_) | Found::Nothing => Ok(None),
    }
}

/// Returns the array `name` in `group`; `None` if there is none.
///
/// # Errors
/// Returns an error if the array exists and cannot be read.
pub(crate) fn array(group: &Group, name: &str) -> Result<Option<Dataset>> {
    match group.find(name)? {
        Found::Array(found) => Ok(Some(found)),
        Found::Unread(why) => Err(unread(name, &why)),
        Found::Group(_) | Found::Nothing => Ok(None),
    }
}

/// Whether what has a name is read.
pub(crate) type Reads<'a> = &'a dyn Fn(&str) -> bool;

/// Reads everything.
pub(crate) fn all(_: &str) -> bool {
    true
}

/// Returns the groups in a group by name, found in one walk. Each look-up by name would walk
/// through all of them.
///
/// # Errors
/// Returns an error if the groups cannot be listed, or if `needed` accepts the name of a link that
/// is not followed.
pub(crate) fn groups(group: &Group, needed: Reads) -> Result<HashMap<String, Group>> {
    let mut found = HashMap::new();
    for (name, member) in group.members(Wanted::Groups)? {
        match member {
            Found::Group(group) => drop(found.insert(name, group)),
            Found::Unread(why) if needed(&name) => return Err(unread(&name, &why)),
            Found::Unread(_) | Found::Array(_) | Found::Nothing => {}
        }
    }
    Ok(found)
}

/// Returns the arrays in a group by name, found in one walk.
///
/// # Errors
/// Returns an error if the arrays cannot be listed, or if `needed` accepts the name of a link that
/// is not followed.
pub(crate) fn datasets(group: &Group, needed: Reads) -> Result<HashMap<String, Dataset>> {
    let mut found = HashMap::new();
    for (name, member) in group.members(Wanted::Arrays)? {
        match member {
            Found::Array(array) => drop(found.insert(name, array)),
            Found::Unread(why) if needed(&name) => return Err(unread(&name, &why)),
            Found::Unread(_) | Found::Group(_) | Found::Nothing => {}
        }
    }
    Ok(found)
}
