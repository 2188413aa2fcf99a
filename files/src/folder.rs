//! Folders that are made for outputs, and go again if nothing comes of them.

use std::io::Result;
use std::path::{Path, PathBuf};

/// A folder for outputs. Those levels of it that had to be made are removed again, unless they hold something, when
/// this is dropped without [`NewFolder::keep`].
#[derive(Debug)]
pub struct NewFolder {
    /// Levels that were made, innermost first.
    made: Vec<PathBuf>,
}

impl NewFolder {
    /// Makes `path` with all levels above it.
    ///
    /// # Errors
    /// The system's, when a level cannot be made.
    pub fn make(path: &Path) -> Result<Self> {
        let missing = |level: &&Path| !level.as_os_str().is_empty() && level.symlink_metadata().is_err();
        let made = path.ancestors().take_while(missing).map(Path::to_owned).collect();
        // Dropped on failure, with what was made of it.
        let folder = Self { made };
        std::fs::create_dir_all(path)?;
        Ok(folder)
    }

    /// Leaves the folder as it is.
    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        for level in &self.made {
            // Fails where something is in it, which is as it should be.
            let _ = std::fs::remove_dir(level);
        }
    }
}
