//! Which modules of a kernel need which, as `depmod` found out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Failure, tools};

/// The modules of one kernel.
pub(super) struct Modules {
    /// The folder that the paths are relative to.
    root: PathBuf,
    /// By name: path, and the paths of those that have to be loaded before, the first needed last.
    needs: BTreeMap<String, (String, Vec<String>)>,
    /// By name: those that are asked for before and after it.
    wishes: BTreeMap<String, (Vec<String>, Vec<String>)>,
    /// What is part of the kernel itself.
    builtin: BTreeSet<String>,
    /// Other names, with patterns, of modules.
    aliases: Vec<(String, String)>,
}

/// One module to load.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Step {
    /// Its path in the kernel's tree.
    pub(super) path: String,
    /// Whether the machine is worth nothing without it.
    pub(super) required: bool,
}

/// A module's name as `lsmod` has it, of a path or of another spelling.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// The path without its compression.
pub(super) fn plain(path: &str) -> &str {
    path.strip_suffix(".xz").unwrap_or(path)
}

impl Modules {
    /// Of the folder that holds `modules.dep`.
    pub(super) fn read(root: &Path) -> Result<Self, Failure> {
        let text = |file: &str| {
            let file = root.join(file);
            std::fs::read_to_string(&file).map_err(Failure::io(file.display()))
        };
        Ok(Self::parse(
            root,
            &text("modules.dep")?,
            &text("modules.softdep")?,
            &text("modules.alias")?,
            &text("modules.builtin")?,
        ))
    }

    fn parse(root: &Path, dep: &str, softdep: &str, alias: &str, builtin: &str) -> Self {
        let needs = |line: &str| {
            let (path, before) = line.split_once(':')?;
            Some((name(path), (path.to_owned(), before.split_whitespace().map(str::to_owned).collect())))
        };
        let wishes = |line: &str| {
            let mut words = line.strip_prefix("softdep ")?.split_whitespace();
            let module = name(words.next()?);
            let (mut before, mut after, mut is_after) = (Vec::new(), Vec::new(), false);
            for word in words {
                match word {
                    "pre:" => is_after = false,
                    "post:" => is_after = true,
                    other if is_after => after.push(other.to_owned()),
                    other => before.push(other.to_owned()),
                }
            }
            Some((module, (before, after)))
        };
        let aliases = |line: &str| {
            let (pattern, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
            Some((pattern.to_owned(), module.to_owned()))
        };
        Self {
            root: root.to_owned(),
            needs: dep.lines().filter_map(needs).collect(),
            wishes: softdep.lines().filter_map(wishes).collect(),
            builtin: builtin.lines().map(name).collect(),
            aliases: alias.lines().filter_map(aliases).collect(),
        }
    }

    /// What to load, in this order, so that these are there. A module that another merely wishes for may
    /// fail, as it may with `modprobe`.
    pub(super) fn steps<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Step>, Failure> {
        let mut steps = Vec::new();
        for wanted in names {
            let module = name(wanted);
            if self.needs.contains_key(&module) {
                self.add(&module, true, &mut steps);
            } else if !self.builtin.contains(&module) {
                return Err(Failure::NoModule(wanted.to_owned()));
            }
        }
        Ok(steps)
    }

    fn add(&self, module: &str, required: bool, steps: &mut Vec<Step>) {
        let Some((path, before)) = self.needs.get(module) else { return };
        if let Some(known) = steps.iter_mut().find(|step| step.path == *path) {
            known.required |= required;
            return;
        }
        let all = before.iter().rev().chain([path]);
        let none = (Vec::new(), Vec::new());
        for path in all.clone() {
            let (before, _) = self.wishes.get(&name(path)).unwrap_or(&none);
            self.add_wishes(before, steps);
        }
        for path in all.clone() {
            if !steps.iter().any(|step| step.path == *path) {
                steps.push(Step { path: path.clone(), required });
            }
        }
        for path in all {
            let (_, after) = self.wishes.get(&name(path)).unwrap_or(&none);
            self.add_wishes(after, steps);
        }
    }

    /// A wish names a module or an alias, and what is built in or does not exist is no wish.
    fn add_wishes(&self, wishes: &[String], steps: &mut Vec<Step>) {
        for wish in wishes {
            self.add(&name(wish), false, steps);
            for (_, module) in self.aliases.iter().filter(|(alias, _)| alias == wish) {
                self.add(&name(module), false, steps);
            }
        }
    }

    /// A module's bytes, as the guest loads it.
    pub(super) fn bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let file = self.root.join(path);
        if plain(path) == path {
            return std::fs::read(&file).map_err(Failure::io(file.display()));
        }
        let mut command = std::process::Command::new(tools::find("xz")?);
        Ok(tools::run(command.args(["--decompress", "--stdout"]).arg(file))?.stdout)
    }

    /// `modules.dep` of these alone, for the guest's `modprobe`.
    pub(super) fn dep_of(&self, steps: &[Step]) -> String {
        let line = |step: &Step| {
            let before = self.needs.get(&name(&step.path)).map_or(&[][..], |(_, before)| before);
            let before: String = before.iter().map(|path| format!(" {}", plain(path))).collect();
            format!("{}:{before}\n", plain(&step.path))
        };
        steps.iter().map(line).collect()
    }

    /// `modules.alias` of these alone, for the guest's `modprobe`.
    pub(super) fn alias_of(&self, steps: &[Step]) -> String {
        let names: BTreeSet<String> = steps.iter().map(|step| name(&step.path)).collect();
        let line = |(alias, module): &(String, String)| format!("alias {alias} {module}\n");
        self.aliases.iter().filter(|(_, module)| names.contains(&name(module))).map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        Modules::parse(
            Path::new("/"),
            "k/vfio.ko:\nk/vfio-pci.ko.xz: k/core.ko.xz k/vfio.ko\nk/core.ko.xz: k/vfio.ko\n\
             k/iommu-type1.ko: k/vfio.ko\nk/fs.ko: k/crc.ko\nk/crc.ko:\nk/sum.ko:\n",
            "softdep vfio post: iommu_type1 no_such\nsoftdep fs pre: crypto-sum\n",
            "# a comment\nalias crypto-sum sum\nalias pci:v* vfio_pci\n",
            "kernel/tty.ko\n",
        )
    }

    fn paths(names: &[&str]) -> Vec<String> {
        modules().steps(names.iter().copied()).unwrap().into_iter().map(|step| step.path).collect()
    }

    #[test]
    fn what_is_needed_comes_first() {
        assert_eq!(
            paths(&["vfio-pci"]),
            ["k/vfio.ko", "k/core.ko.xz", "k/vfio-pci.ko.xz", "k/iommu-type1.ko"]
        );
        assert_eq!(paths(&["fs", "fs"]), ["k/sum.ko", "k/crc.ko", "k/fs.ko"]);
    }

    #[test]
    fn wishes_may_fail_unless_they_are_asked_for() {
        let required = |names: &[&str]| {
            let steps = modules().steps(names.iter().copied()).unwrap();
            steps.into_iter().find(|step| step.path == "k/iommu-type1.ko").unwrap().required
        };
        assert!(!required(&["vfio_pci"]));
        assert!(required(&["vfio_pci", "iommu-type1"]));
    }

    #[test]
    fn what_is_built_in_needs_no_loading_and_what_is_not_known_is_an_error() {
        assert!(paths(&["tty"]).is_empty());
        assert!(matches!(modules().steps(["none"]), Err(Failure::NoModule(name)) if name == "none"));
    }

    #[test]
    fn the_guest_gets_the_lines_of_its_own_modules() {
        let modules = modules();
        let steps = modules.steps(["vfio-pci"]).unwrap();
        assert!(modules.dep_of(&steps).contains("k/vfio-pci.ko: k/core.ko k/vfio.ko\n"));
        assert_eq!(modules.alias_of(&steps), "alias pci:v* vfio_pci\n");
    }
}
