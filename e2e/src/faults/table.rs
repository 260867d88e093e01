//! The outcomes of the matrix, as rows of the tables in `docs/src/faults.md`.
//!
//! Each test leaves its rows in a file; `weir-e2e faults` puts them together.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::Error;
use super::matrix::{COLUMNS, Outcome};
use crate::layout::Layout;

/// Where tests leave their rows.
#[derive(Clone, Debug)]
pub struct Table {
    path: PathBuf,
    text: String,
}

impl Table {
    /// Starts a table: its title, what was done, the names of its columns. Tables stand in the book by the order of their names.
    pub fn new(name: &str, title: &str, about: &str, columns: &[&str]) -> Self {
        let folder = folder(&Layout::from_environment());
        let mut text = format!("## {title}\n\n{about}\n\n");
        push(&mut text, columns);
        push(&mut text, &vec!["---"; columns.len()]);
        Self { path: folder.join(format!("{name}.md")), text }
    }

    /// Starts a table with a row for each run; `first` names the columns before those of its outcome.
    pub fn of_runs(name: &str, title: &str, about: &str, first: &[&str]) -> Self {
        let columns: Vec<&str> = first.iter().copied().chain(COLUMNS).collect();
        Self::new(name, title, about, &columns)
    }

    /// Adds a run. One that is not right is an error, and stands in the table.
    pub fn run(&mut self, first: &[&str], outcome: &Outcome) -> Result<(), Error> {
        let cells = outcome.cells();
        self.row(&first.iter().copied().chain(cells.iter().map(String::as_str)).collect::<Vec<_>>())?;
        if outcome.is_right() {
            return Ok(());
        }
        Err(Error::Harm { what: first.join(", "), differences: outcome.differences, wrong_sums: outcome.wrong_sums.join("; ") })
    }

    /// Adds a row and writes the table, so that what was found is there even if the next run is never done.
    pub fn row(&mut self, cells: &[&str]) -> Result<(), Error> {
        push(&mut self.text, cells);
        let write_error = |source| Error::File { path: self.path.clone(), source };
        std::fs::create_dir_all(self.path.parent().unwrap_or(Path::new("."))).map_err(write_error)?;
        std::fs::write(&self.path, &self.text).map_err(write_error)
    }
}

fn push(text: &mut String, cells: &[impl AsRef<str>]) {
    for cell in cells {
        // Writing to a string does not fail.
        let _ = write!(text, "| {} ", cell.as_ref().replace('|', "/"));
    }
    text.push_str("|\n");
}

/// Where the tables of this build's tests lie.
pub fn folder(layout: &Layout) -> PathBuf {
    layout.cache().join("faults")
}

/// All tables, by name.
pub fn collect(folder: &Path) -> Result<String, Error> {
    let file_error = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::File { path, source }
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(file_error(folder))? {
        paths.push(entry.map_err(file_error(folder))?.path());
    }
    paths.sort();
    let mut text = String::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        text.push_str(&std::fs::read_to_string(path).map_err(file_error(path))?);
        text.push('\n');
    }
    Ok(text)
}
