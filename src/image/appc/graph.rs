//! What an image is made of: its dependencies, put in order.
//!
//! What it is for: the specification builds a root file system by applying to an empty
//! directory the dependencies in listed order, each with its own dependencies first,
//! and then the image's own files over all of them (`spec/ace.md`, "Filesystem
//! Setup"). This file turns that into a flat stack, once for all. May assume a
//! lookup that answers the same twice. Must not know where images are.
//!
//! `A` with `[B, C]`, and `C` with `[D]`, is the stack `B D C A`, the lowest first.
//!
//! A whitelist speaks of the files of the image that has it and of all that this
//! image depends on. So each layer has the whitelists of its branch, and shows what is
//! on all of them. (The reference renderer applies only two of them, the layer's
//! own and the one nearest to the top; where lists are nested, as converters make them, that is
//! the same.) What they leave out is as if the layer did not have it.
//!
//! A layer that comes twice with the same whitelists is kept at its *highest* place:
//! there it puts everything again that it put below, so the lower one cannot be seen.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use super::manifest::Dependency;
use crate::appc::{AppcReference, Identifier, Labels};
use crate::digest::AciId;

/// Deepest chain of dependencies. Images in the wild have up to ten or so.
pub const DEPTH_MAX: usize = 64;
/// Most layers of the whole (that of Docker images, [`crate::image::LAYERS_MAX`]).
pub const STACK_MAX: usize = 1024;
/// Most dependencies that are looked at for one image, repeated ones included.
pub const EDGES_MAX: usize = 16 << 10;

/// What must be known of an image to put it in its place.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Outline {
    /// Its name.
    pub name: Identifier,
    /// Its labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Images below it, the lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<Dependency>,
    /// How many paths its whitelist has; 0: it shows all.
    #[serde(default)]
    pub whitelisted: u64,
}

impl Outline {
    /// Its name and all of its labels.
    #[must_use]
    pub fn reference(&self) -> AppcReference {
        AppcReference {
            name: self.name.clone(),
            labels: self.labels.clone(),
        }
    }

    /// What people call it: name and version.
    #[must_use]
    pub fn called(&self) -> String {
        self.reference().called()
    }
}

/// One image, found.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its ID.
    pub id: AciId,
    /// What its manifest says.
    pub outline: Arc<Outline>,
}

/// One layer of the stack.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Placed {
    /// The image whose own root file system it is.
    pub id: AciId,
    /// The images whose whitelists it has to be on, sorted.
    pub lists: Vec<AciId>,
}

/// Names of images from the requested one down to where it went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain(pub Vec<String>);

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" -> "))
    }
}

/// Why images make no stack.
#[derive(Debug, thiserror::Error)]
pub enum GraphError<E: Error + 'static> {
    /// An image depends on itself by way of others.
    #[error("dependencies lead in a circle: {0}")]
    Cycle(Chain),
    /// An image is not there.
    #[error("the dependency `{wanted}` is missing: {chain}")]
    Missing {
        /// What is wanted.
        wanted: Wanted,
        /// Who wants it.
        chain: Chain,
    },
    /// There is an image of that name, and it is another one.
    #[error("the dependency `{wanted}` is missing, but there is {found} of that name: {chain}")]
    WrongId {
        /// What is wanted.
        wanted: Wanted,
        /// What is there.
        found: AciId,
        /// Who wants it.
        chain: Chain,
    },
    /// The image of the wanted ID has another name.
    #[error("the dependency `{wanted}` is `{found}` by its ID: {chain}")]
    WrongName {
        /// What is wanted.
        wanted: Wanted,
        /// What the image with that ID is called.
        found: AppcReference,
        /// Who wants it.
        chain: Chain,
    },
    /// A chain that is too long.
    #[error("dependencies are more than {DEPTH_MAX} deep: {0}")]
    TooDeep(Chain),
    /// Too many in all.
    #[error("the image has more than {limit} {what}")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many are accepted.
        limit: usize,
    },
    /// The place where images are looked for failed.
    #[error("a dependency cannot be looked up: {chain}")]
    Lookup {
        /// Who wants it.
        chain: Chain,
        /// What is wrong there.
        source: E,
    },
}

impl<E: Error> GraphError<E> {
    /// The dependency that has to come, if that is what it lacks.
    #[must_use]
    pub fn missing(&self) -> Option<&Wanted> {
        match self {
            Self::Missing { wanted, .. } | Self::WrongId { wanted, .. } => Some(wanted),
            _ => None,
        }
    }
}

/// A dependency that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What the manifest says of it.
    pub dependency: Dependency,
    /// Labels `os` and `arch` of what it is for: those of the image that wants it; where
    /// that says nothing, those of the requested image.
    pub machine: Labels,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dependency { image, id, .. } = &self.dependency;
        write!(f, "{image}")?;
        match id {
            Some(id) => write!(f, " ({id})"),
            None => Ok(()),
        }
    }
}

/// Answers a dependency with the image of its ID, where it has one and that
/// image is there; else with the one that fits name and labels and is best for
/// the machine that these labels speak of, see [`Wanted`]; else with nothing.
pub type Find<'a, E> = dyn FnMut(&Dependency, &Labels) -> Result<Option<Known>, E> + 'a;

/// The stack that an image stands for, the lowest layer first.
///
/// # Errors
/// See [`GraphError`]; all of them name the chain that led there.
pub fn stack<E: Error + 'static>(
    top: Known,
    find: &mut Find<'_, E>,
) -> Result<Vec<Placed>, Box<GraphError<E>>> {
    let mut walk = Walk {
        find,
        branch: Vec::new(),
        seen: HashSet::new(),
        placed: Vec::new(),
        edges: 0,
    };
    walk.visit(top, &[]).map_err(Box::new)?;
    walk.placed.reverse();
    Ok(walk.placed)
}

/// The walk goes from the top down, so that what is met again is below and can go.
struct Walk<'a, E> {
    find: &'a mut Find<'a, E>,
    /// From the top to where the walk is.
    branch: Vec<Known>,
    /// All that was placed.
    seen: HashSet<Placed>,
    /// The highest first.
    placed: Vec<Placed>,
    edges: usize,
}

impl<E: Error + 'static> Walk<'_, E> {
    /// The chain to the place of the walk, and one more.
    fn chain(&self, last: Option<String>) -> Chain {
        let names = self.branch.iter().map(|known| known.outline.called());
        Chain(names.chain(last).collect())
    }

    /// What the last of the branch is for.
    fn machine(&self) -> Labels {
        let said = |known: &Known, label: &str| {
            let mut labels = known.outline.labels.iter();
            let found = labels.find(|(name, _)| name.as_str() == label);
            found.map(|(name, value)| (name.clone(), value.clone()))
        };
        let of_two = |label| {
            let last = self.branch.last().and_then(|known| said(known, label));
            last.or_else(|| said(self.branch.first()?, label))
        };
        ["os", "arch"].into_iter().filter_map(of_two).collect()
    }

    fn visit(&mut self, known: Known, above: &[AciId]) -> Result<(), GraphError<E>> {
        let called = || Some(known.outline.called());
        if self.branch.iter().any(|other| other.id == known.id) {
            return Err(GraphError::Cycle(self.chain(called())));
        }
        if self.branch.len() >= DEPTH_MAX {
            return Err(GraphError::TooDeep(self.chain(called())));
        }
        let mut lists = above.to_vec();
        if known.outline.whitelisted > 0
            && let Err(at) = lists.binary_search(&known.id)
        {
            lists.insert(at, known.id);
        }
        let id = known.id;
        let placed = Placed { id, lists };
        if !self.seen.insert(placed.clone()) {
            return Ok(());
        }
        if self.placed.len() == STACK_MAX {
            return Err(GraphError::TooMany {
                what: "layers",
                limit: STACK_MAX,
            });
        }
        let lists = placed.lists.clone();
        self.placed.push(placed);
        let outline = Arc::clone(&known.outline);
        self.branch.push(known);
        for wanted in outline.dependencies.iter().rev() {
            let found = self.look_up(wanted)?;
            self.visit(found, &lists)?;
        }
        self.branch.pop();
        Ok(())
    }

    /// The image that is meant, compared with what is said of it.
    fn look_up(&mut self, wanted: &Dependency) -> Result<Known, GraphError<E>> {
        self.edges += 1;
        if self.edges > EDGES_MAX {
            return Err(GraphError::TooMany {
                what: "dependencies, repeated ones included",
                limit: EDGES_MAX,
            });
        }
        let machine = self.machine();
        let found = (self.find)(wanted, &machine);
        let named = || self.chain(Some(wanted.image.to_string()));
        let found = found.map_err(|source| GraphError::Lookup {
            chain: named(),
            source,
        })?;
        let wants = || Wanted {
            dependency: wanted.clone(),
            machine: machine.clone(),
        };
        let Some(known) = found else {
            return Err(GraphError::Missing {
                wanted: wants(),
                chain: named(),
            });
        };
        if wanted.id.is_some_and(|id| id != known.id) {
            return Err(GraphError::WrongId {
                wanted: wants(),
                found: known.id,
                chain: named(),
            });
        }
        let Outline { name, labels, .. } = &*known.outline;
        if !wanted.fits(name, labels) {
            return Err(GraphError::WrongName {
                wanted: wants(),
                found: AppcReference {
                    name: name.clone(),
                    labels: labels.clone(),
                },
                chain: named(),
            });
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;
    use crate::digest::{DiffId, Hasher};

    fn id(name: &str) -> AciId {
        let mut hasher = Hasher::sha512();
        hasher.update(name.as_bytes());
        AciId::of_archive(DiffId(hasher.finish())).unwrap()
    }

    /// Images by name; `*` behind the colon: it has a whitelist.
    struct Images(BTreeMap<String, Known>);

    impl Images {
        /// `"a: b c"`: `a` depends on `b` and `c`.
        fn new(lines: &[&str]) -> Self {
            let image = |line: &&str| {
                let (name, rest) = line.split_once(':').unwrap();
                let listed = rest.starts_with('*');
                let names = rest.trim_start_matches('*').split_whitespace();
                let dependency = |name: &str| Dependency {
                    image: format!("appc:{name}").parse().unwrap(),
                    id: None,
                    size: None,
                };
                let outline = Outline {
                    name: name.parse().unwrap(),
                    labels: Labels::new(),
                    dependencies: names.map(dependency).collect(),
                    whitelisted: listed.into(),
                };
                let id = id(name);
                let outline = Arc::new(outline);
                (name.to_owned(), Known { id, outline })
            };
            Self(lines.iter().map(image).collect())
        }

        fn stack(&self, top: &str) -> Result<Vec<Placed>, Box<GraphError<Infallible>>> {
            stack(self.0[top].clone(), &mut |wanted, _| {
                Ok(self.0.get(wanted.image.name.as_str()).cloned())
            })
        }

        fn name(&self, id: AciId) -> &str {
            let found = self.0.iter().find(|(_, known)| known.id == id);
            found.unwrap().0
        }

        /// `"b d(c) c(c)"`: names, and whose whitelists.
        fn shown(&self, top: &str) -> String {
            let one = |placed: &Placed| {
                let mut lists: Vec<_> = placed.lists.iter().map(|&list| self.name(list)).collect();
                lists.sort_unstable();
                format!("{}({})", self.name(placed.id), lists.concat()).replace("()", "")
            };
            let all: Vec<_> = self.stack(top).unwrap().iter().map(one).collect();
            all.join(" ")
        }
    }

    #[test]
    fn dependencies_come_in_listed_order_each_below_who_wants_it() {
        for (images, stack) in [
            (&["a:"][..], "a"),
            (&["a: b c", "b:", "c: d", "d:"], "b d c a"),
            (&["a: b c d", "b:", "c:", "d:"], "b c d a"),
            // A diamond: the lower of two is hidden by the higher.
            (&["a: b c", "b: d", "c: d", "d:"], "b d c a"),
            // C again above B, so that C wins (and not the first of the two).
            (&["a: b d", "b: c", "c:", "d: c"], "b c d a"),
            (&["a: b b", "b:"], "b a"),
        ] {
            assert_eq!(Images::new(images).shown("a"), stack, "{images:?}");
        }
    }

    #[test]
    fn a_whitelist_speaks_of_its_image_and_of_all_below_that() {
        for (images, stack) in [
            (&["a:* b", "b:"][..], "b(a) a(a)"),
            (&["a: b c", "b:", "c:* d", "d:"], "b d(c) c(c) a"),
            (&["a:* b c", "b:", "c:* d", "d:"], "b(a) d(ac) c(ac) a(a)"),
            // One of the two is below a whitelist: they are not the same any more.
            (&["a: b c", "b:* d", "c: d", "d:"], "d(b) b(b) d c a"),
            (&["a: b c", "b: d", "c:* d", "d:"], "d b d(c) c(c) a"),
            (&["a: b c", "b:* d", "c:* d", "d:"], "d(b) b(b) d(c) c(c) a"),
            // Its own whitelist is the same at both places.
            (
                &["a: b c", "b: d", "c: d", "d:* e", "e:"],
                "b e(d) d(d) c a",
            ),
        ] {
            assert_eq!(Images::new(images).shown("a"), stack, "{images:?}");
        }
    }

    fn error(images: &[&str]) -> String {
        Images::new(images).stack("a").unwrap_err().to_string()
    }

    #[test]
    fn what_makes_no_stack_is_told_with_its_chain() {
        assert_eq!(
            error(&["a: b", "b: c", "c: b"]),
            "dependencies lead in a circle: a -> b -> c -> b"
        );
        assert_eq!(error(&["a: a"]), "dependencies lead in a circle: a -> a");
        assert_eq!(
            error(&["a: b", "b: c"]),
            "the dependency `appc:c` is missing: a -> b -> appc:c"
        );
    }

    #[test]
    fn depth_and_number_have_limits() {
        let chain: Vec<String> = (0..100).map(|n| format!("n{n}: n{}", n + 1)).collect();
        let chain: Vec<&str> = ["a: n0"]
            .into_iter()
            .chain(chain.iter().map(String::as_str))
            .collect();
        assert!(error(&chain).starts_with("dependencies are more than 64 deep: a -> n0 -> n1"));
        // Each level doubles the ways down; without whitelists they are all one.
        let doubled = |star: &str| -> Vec<String> {
            let level = |n: usize| {
                let (next, last) = (n + 1, n == 40);
                let below = if last {
                    String::new()
                } else {
                    format!("l{next} r{next}")
                };
                [
                    format!("l{n}:{star} {below}"),
                    format!("r{n}:{star} {below}"),
                ]
            };
            (0..=40)
                .flat_map(level)
                .chain(["a: l0 r0".to_owned()])
                .collect()
        };
        let lines = doubled("");
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(Images::new(&lines).stack("a").unwrap().len(), 83);
        let lines = doubled("*");
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(error(&lines), "the image has more than 1024 layers");
    }

    #[test]
    fn an_image_that_is_not_the_wanted_one_is_refused() {
        let images = Images::new(&["a: b", "b:"]);
        let mut top = (*images.0["a"].outline).clone();
        let mut fails = |change: &dyn Fn(&mut Dependency)| {
            change(&mut top.dependencies[0]);
            let top = Known {
                id: id("a"),
                outline: Arc::new(top.clone()),
            };
            let known = images.0["b"].clone();
            stack::<Infallible>(top, &mut |_, _| Ok(Some(known.clone())))
                .unwrap_err()
                .to_string()
        };
        let wrong = fails(&|dependency| dependency.id = Some(id("other")));
        assert!(
            wrong.contains("there is sha512-") && wrong.ends_with("a -> appc:b"),
            "{wrong}"
        );
        let wrong = fails(&|dependency| {
            dependency.id = Some(id("b"));
            dependency.image = "appc:c:2".parse().unwrap();
        });
        assert!(
            wrong.contains("is `appc:b` by its ID: a -> appc:c:2"),
            "{wrong}"
        );
    }

    /// Its labels were compared, too, which the specification has where there is no ID.
    #[test]
    fn by_its_id_an_image_is_the_wanted_one_whatever_labels_it_has() {
        let images = Images::new(&["a: b", "b:"]);
        let mut top = (*images.0["a"].outline).clone();
        top.dependencies[0].image = "appc:b:2,os=linux".parse().unwrap();
        let mut stacked = |of: Option<AciId>| {
            top.dependencies[0].id = of;
            let top = Known {
                id: id("a"),
                outline: Arc::new(top.clone()),
            };
            let known = images.0["b"].clone();
            stack::<Infallible>(top, &mut |_, _| Ok(Some(known.clone())))
        };
        assert_eq!(stacked(Some(id("b"))).unwrap().len(), 2);
        assert!(stacked(None).is_err());
    }
}
