//! Columns of texts that LeRobot stores as indices into tables: tasks, subtasks and annotations.

use std::collections::HashMap;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use serde_json::{Map, Value};

use super::source_infos::declared;
use crate::error::Result;
use crate::format::lerobot::modality::ANNOTATION;
use crate::format::lerobot::tables::{FEATURE, TABLE, TASK_INDEX, TASKS};
use crate::transfer::write::OutgoingTrajectory;

/// The column with the text of a step's task.
pub(crate) const TASK: &str = "task";

/// The column with the text of a step's subtask, whose table LeRobot's loader knows.
const SUBTASK: &str = "subtask";

/// A feature of indices, and the column of texts that it stands for.
pub(crate) struct IndexColumn {
    pub(crate) column: String,
    pub(crate) feature: String,
    /// The number of its table.
    pub(crate) table: usize,
}

/// A table of texts that is being written, in the order of their first steps.
pub(crate) struct TextTable {
    pub(crate) name: String,
    indices: HashMap<String, i64>,
    pub(crate) texts: Vec<String>,
}

impl TextTable {
    fn new(name: &str) -> TextTable {
        TextTable {
            name: name.to_owned(),
            indices: HashMap::new(),
            texts: Vec::new(),
        }
    }

    /// Returns the index of a text, which is a new one for a new text.
    fn index(&mut self, text: &str) -> i64 {
        if let Some(index) = self.indices.get(text) {
            return *index;
        }
        let index = self.texts.len() as i64;
        self.indices.insert(text.to_owned(), index);
        self.texts.push(text.to_owned());
        index
    }
}

/// The columns that become indices; the first one is the task.
pub(crate) struct IndexColumns {
    pub(crate) columns: Vec<IndexColumn>,
    tables: Vec<String>,
    /// The task of a trajectory without one.
    default: Option<String>,
}

impl IndexColumns {
    /// Returns the columns for trajectories whose task, if they have none of their own, is
    /// `default`.
    pub(crate) fn new(default: Option<String>) -> IndexColumns {
        IndexColumns {
            columns: vec![IndexColumn {
                column: TASK.to_owned(),
                feature: TASK_INDEX.to_owned(),
                table: 0,
            }],
            tables: vec![TASKS.to_owned()],
            default,
        }
    }

    /// Adds a column of texts if its source stored it as indices, or if LeRobot or GR00T give its
    /// name this meaning. Returns the name of its feature.
    pub(crate) fn add(
        &mut self,
        field: &Field,
        infos: &[&Map<String, Value>],
    ) -> Option<(String, usize)> {
        let name = field.name().as_str();
        if *field.data_type() != DataType::Utf8 || name == TASK {
            return None;
        }
        let was_text = declared(infos, name).any(|feature| feature["dtype"] == "string");
        let noted = |key: &str| field.metadata().get(key).map(String::as_str);
        let (feature, table) = match (noted(FEATURE), noted(TABLE)) {
            (Some(feature), Some(table)) if feature != TASK_INDEX => (feature, table.to_owned()),
            _ if was_text => return None,
            _ if name == SUBTASK => ("subtask_index", format!("{SUBTASK}s")),
            _ if name.starts_with(ANNOTATION) => (name, TASKS.to_owned()),
            _ => return None,
        };
        let table = match self.tables.iter().position(|known| *known == table) {
            Some(table) => table,
            None => {
                self.tables.push(table);
                self.tables.len() - 1
            }
        };
        self.columns.push(IndexColumn {
            column: name.to_owned(),
            feature: feature.to_owned(),
            table,
        });
        Some((feature.to_owned(), self.columns.len() - 1))
    }

    /// Returns empty tables.
    pub(crate) fn tables(&self) -> Vec<TextTable> {
        self.tables
            .iter()
            .map(|name| TextTable::new(name))
            .collect()
    }

    /// Returns the indices in each column for each step of a trajectory, and adds new texts to
    /// `tables`. A column that was not read has none. An empty task is none.
    pub(crate) fn indices(
        &self,
        trajectory: &OutgoingTrajectory,
        tables: &mut [TextTable],
    ) -> Result<Vec<Vec<i64>>> {
        let own = trajectory.text(TASK).filter(|text| !text.is_empty());
        let own = own.or(self.default.as_deref());
        let mut all = Vec::new();
        for (at, IndexColumn { column, table, .. }) in self.columns.iter().enumerate() {
            let default = own.filter(|_| at == 0).unwrap_or_default();
            let table = &mut tables[*table];
            let texts = trajectory
                .column(column)
                .filter(|texts| *texts.data_type() == DataType::Utf8);
            all.push(match texts {
                Some(texts) => cast(&texts, &DataType::Utf8)?
                    .as_string::<i32>()
                    .iter()
                    .map(|text| text.filter(|text| !text.is_empty()).unwrap_or(default))
                    .map(|text| table.index(text))
                    .collect(),
                None if at == 0 => vec![table.index(default); trajectory.length],
                None => Vec::new(),
            });
        }
        Ok(all)
    }
}
