//! Which images go: a pure function over what there is of them.
//!
//! What it is for: rules of an operator (age, size, room on the disk) become a list of
//! images. May assume that whoever asks has found out what is in use. Must not know
//! files, nor clocks. Invariants: *nothing in use goes*, *nothing goes that something
//! which stays depends on*, *the least recently used goes first*.
//!
//! Rules add up: an image goes when one of them says so.

use std::collections::BTreeSet;
use std::time::Duration;

/// When images may go. By itself it lets all stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// All that nothing uses.
    pub all: bool,
    /// Those without a name.
    pub unnamed: bool,
    /// Those that were not used since then (since 1970).
    pub unused_since: Option<Duration>,
    /// The least recently used until no more than this is left, in bytes.
    pub max_size: Option<u64>,
    /// The least recently used until so many bytes are free again.
    pub to_free: Option<u64>,
}

impl Rules {
    /// Whether they let anything go.
    #[must_use]
    pub fn drop_anything(&self) -> bool {
        *self != Self::default()
    }
}

/// Why an image goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// All that nothing uses were to go.
    All,
    /// It has no name.
    Unnamed,
    /// It was not used for so long.
    Unused,
    /// The store was too large.
    Size,
    /// The disk was too full.
    Headroom,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Candidate {
    /// Since 1970.
    pub last_used: Duration,
    /// It has a name (an AppC image always does).
    pub named: bool,
    /// It is in use or excluded.
    pub stays: bool,
    /// Images that it depends on, by their places in the list.
    pub needs: Vec<usize>,
    /// Files that it needs, by their places in the list of sizes; each once.
    pub files: Vec<usize>,
}

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scene {
    /// All images.
    pub images: Vec<Candidate>,
    /// Bytes of all files.
    pub sizes: Vec<u64>,
    /// Files that stay whatever becomes of the images.
    pub fixed: BTreeSet<usize>,
}

/// An image that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Its place in the list.
    pub image: usize,
    /// By which rule.
    pub why: Why,
    /// Bytes that this gives back after those before it are gone.
    pub bytes: u64,
}

/// What goes, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chosen {
    /// The images.
    pub images: Vec<Choice>,
    /// Bytes that are missing to what was asked for: the rest stays.
    pub short: u64,
}

/// Applies rules to what there is.
#[must_use]
pub fn choose(scene: &Scene, rules: &Rules) -> Chosen {
    let mut left = Left::new(scene);
    left.drop_by_reason(rules);
    loop {
        let over = rules
            .max_size
            .map_or(0, |max| left.kept.saturating_sub(max));
        let full = rules
            .to_free
            .map_or(0, |want| want.saturating_sub(left.freed));
        let why = match (over, full) {
            (0, 0) => break,
            (0, _) => Why::Headroom,
            _ => Why::Size,
        };
        let Some(image) = left.least_recently_used() else {
            left.chosen.short = over.max(full);
            break;
        };
        left.drop_image(image, why);
    }
    // What only those needed that went for their size.
    left.drop_by_reason(rules);
    left.chosen
}

/// Why an image may go whatever the others are.
fn reason(image: &Candidate, rules: &Rules) -> Option<Why> {
    if image.stays {
        return None;
    }
    let unused = rules
        .unused_since
        .is_some_and(|since| image.last_used <= since);
    match () {
        () if unused => Some(Why::Unused),
        () if rules.unnamed && !image.named => Some(Why::Unnamed),
        () if rules.all => Some(Why::All),
        () => None,
    }
}

/// What is left while images go.
struct Left<'a> {
    scene: &'a Scene,
    there: Vec<bool>,
    /// How many images that are there depend on each.
    dependents: Vec<usize>,
    /// How many need each file.
    users: Vec<usize>,
    /// Bytes of files that somebody needs.
    kept: u64,
    /// Bytes of the others.
    freed: u64,
    chosen: Chosen,
    /// Places of images, the least recently used first.
    order: Vec<usize>,
}

impl<'a> Left<'a> {
    fn new(scene: &'a Scene) -> Self {
        let mut users = vec![0; scene.sizes.len()];
        let needed = scene.images.iter().flat_map(|image| &image.files);
        for file in needed.chain(&scene.fixed) {
            users[*file] += 1;
        }
        let mut dependents = vec![0; scene.images.len()];
        for (place, image) in scene.images.iter().enumerate() {
            for need in image.needs.iter().filter(|need| **need != place) {
                dependents[*need] += 1;
            }
        }
        let sum = |needed: bool| {
            let files = scene.sizes.iter().zip(&users);
            let these = files.filter(|(_, users)| (**users > 0) == needed);
            these.map(|(size, _)| size).sum()
        };
        let mut order: Vec<usize> = (0..scene.images.len()).collect();
        order.sort_by_key(|place| scene.images[*place].last_used);
        Self {
            there: vec![true; scene.images.len()],
            kept: sum(true),
            freed: sum(false),
            chosen: Chosen::default(),
            scene,
            dependents,
            users,
            order,
        }
    }

    /// Drops what may go whatever the others are, but for what others need which stay.
    fn drop_by_reason(&mut self, rules: &Rules) {
        let images = &self.scene.images;
        let mut goes: Vec<Option<Why>> = (images.iter().zip(&self.there))
            .map(|(image, there)| reason(image, rules).filter(|_| *there))
            .collect();
        let stays = |at: &usize| self.there[*at] && goes[*at].is_none();
        let mut stay: Vec<usize> = (0..images.len()).filter(stays).collect();
        while let Some(at) = stay.pop() {
            for need in &images[at].needs {
                if goes[*need].take().is_some() {
                    stay.push(*need);
                }
            }
        }
        for at in self.order.clone() {
            if let Some(why) = goes[at] {
                self.drop_image(at, why);
            }
        }
    }

    fn least_recently_used(&self) -> Option<usize> {
        let may_go = |at: &usize| {
            self.there[*at] && !self.scene.images[*at].stays && self.dependents[*at] == 0
        };
        self.order.iter().copied().find(may_go)
    }

    fn drop_image(&mut self, image: usize, why: Why) {
        let mut bytes = 0;
        self.there[image] = false;
        let gone = &self.scene.images[image];
        for file in &gone.files {
            self.users[*file] -= 1;
            if self.users[*file] == 0 {
                bytes += self.scene.sizes[*file];
            }
        }
        for need in gone.needs.iter().filter(|need| **need != image) {
            self.dependents[*need] -= 1;
        }
        self.kept -= bytes;
        self.freed += bytes;
        self.chosen.images.push(Choice { image, why, bytes });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Images of 1 to 4 files out of 12; dependencies on images before them.
    fn scene() -> impl Strategy<Value = Scene> {
        let image = (
            0_u64..6,
            any::<bool>(),
            prop::bool::weighted(0.2),
            prop::collection::vec(any::<prop::sample::Index>(), 0..2),
            prop::collection::btree_set(0_usize..12, 1..4),
        );
        let images = prop::collection::vec(image, 0..9);
        let fixed = prop::collection::btree_set(0_usize..12, 0..3);
        (images, prop::collection::vec(0_u64..100, 12), fixed).prop_map(|(images, sizes, fixed)| {
            Scene {
                images: (images.into_iter().enumerate())
                    .map(|(at, (used, named, stays, needs, files))| Candidate {
                        last_used: Duration::from_secs(used),
                        named,
                        stays,
                        needs: match at {
                            0 => Vec::new(),
                            _ => needs.iter().map(|need| need.index(at)).collect(),
                        },
                        files: files.into_iter().collect(),
                    })
                    .collect(),
                sizes,
                fixed,
            }
        })
    }

    fn rules() -> impl Strategy<Value = Rules> {
        (
            prop::bool::weighted(0.1),
            prop::bool::weighted(0.3),
            prop::option::of(0_u64..6),
            prop::option::of(0_u64..500),
            prop::option::of(0_u64..500),
        )
            .prop_map(|(all, unnamed, since, max_size, to_free)| Rules {
                all,
                unnamed,
                unused_since: since.map(Duration::from_secs),
                max_size,
                to_free,
            })
    }

    /// Bytes that are needed when these are gone, counted anew.
    fn kept(scene: &Scene, gone: &[Choice]) -> u64 {
        let stays = |at: &usize| gone.iter().all(|choice| choice.image != *at);
        let images = (0..scene.images.len()).filter(stays);
        let files = images.flat_map(|at| &scene.images[at].files);
        let files: BTreeSet<&usize> = files.chain(&scene.fixed).collect();
        files.into_iter().map(|file| scene.sizes[*file]).sum()
    }

    /// Whether all was reached that was asked for.
    fn enough(scene: &Scene, rules: &Rules, gone: &[Choice]) -> bool {
        let kept = kept(scene, gone);
        let freed = scene.sizes.iter().sum::<u64>() - kept;
        rules.max_size.is_none_or(|max| kept <= max)
            && rules.to_free.is_none_or(|want| freed >= want)
    }

    proptest! {
        #[test]
        fn nothing_goes_that_is_in_use_or_that_something_which_stays_needs(
            scene in scene(), rules in rules()
        ) {
            let gone = choose(&scene, &rules).images;
            let goes = |at: usize| gone.iter().any(|choice| choice.image == at);
            for (at, image) in scene.images.iter().enumerate() {
                prop_assert!(!(image.stays && goes(at)));
                prop_assert!(goes(at) || !image.needs.iter().any(|need| goes(*need)));
            }
        }

        #[test]
        fn bytes_are_what_counting_anew_gives(scene in scene(), rules in rules()) {
            let chosen = choose(&scene, &rules);
            for (at, choice) in chosen.images.iter().enumerate() {
                let (before, after) = (&chosen.images[..at], &chosen.images[..=at]);
                prop_assert_eq!(choice.bytes, kept(&scene, before) - kept(&scene, after));
            }
            prop_assert_eq!(chosen.short == 0, enough(&scene, &rules, &chosen.images));
        }

        #[test]
        fn no_more_goes_than_has_to_and_enough_unless_the_rest_stays(
            scene in scene(), rules in rules()
        ) {
            let chosen = choose(&scene, &rules);
            for (at, choice) in chosen.images.iter().enumerate() {
                if matches!(choice.why, Why::Size | Why::Headroom) {
                    prop_assert!(!enough(&scene, &rules, &chosen.images[..at]));
                }
            }
            if chosen.short > 0 {
                let goes = |at: usize| chosen.images.iter().any(|choice| choice.image == at);
                let rest = scene.images.iter().enumerate().filter(|(at, _)| !goes(*at));
                for (at, image) in rest {
                    let needed = |other: &Candidate| other.needs.contains(&at);
                    let by = scene.images.iter().enumerate();
                    let mut by = by.filter(|(other, image)| !goes(*other) && needed(image));
                    prop_assert!(image.stays || by.next().is_some());
                }
            }
        }

        #[test]
        fn without_dependencies_the_least_recently_used_go(
            mut scene in scene(), max in 0_u64..500
        ) {
            scene.images.iter_mut().for_each(|image| image.needs.clear());
            let rules = Rules { max_size: Some(max), ..Rules::default() };
            let gone = choose(&scene, &rules).images;
            let goes = |at: usize| gone.iter().any(|choice| choice.image == at);
            let oldest = (scene.images.iter().enumerate())
                .filter(|(at, image)| !image.stays && !goes(*at))
                .map(|(_, image)| image.last_used)
                .min();
            for choice in &gone {
                let used = scene.images[choice.image].last_used;
                prop_assert!(oldest.is_none_or(|oldest| used <= oldest));
            }
        }

        #[test]
        fn an_age_lets_go_exactly_what_is_older_and_not_needed(
            mut scene in scene(), since in 0_u64..6
        ) {
            scene.images.iter_mut().for_each(|image| image.needs.clear());
            let since = Duration::from_secs(since);
            let rules = Rules { unused_since: Some(since), ..Rules::default() };
            let gone: BTreeSet<usize> =
                choose(&scene, &rules).images.iter().map(|choice| choice.image).collect();
            for (at, image) in scene.images.iter().enumerate() {
                prop_assert_eq!(gone.contains(&at), !image.stays && image.last_used <= since);
            }
        }

        #[test]
        fn a_second_time_nothing_goes(scene in scene(), rules in rules()) {
            // Bytes to be freed are counted from where one stands.
            let rules = Rules { to_free: None, ..rules };
            let gone = choose(&scene, &rules).images;
            let goes = |at: usize| gone.iter().any(|choice| choice.image == at);
            let places: Vec<usize> = (0..scene.images.len()).filter(|at| !goes(*at)).collect();
            let images = places.iter().map(|at| {
                let mut image = scene.images[*at].clone();
                let place = |need: &usize| places.iter().position(|at| at == need);
                image.needs = image.needs.iter().filter_map(place).collect();
                image
            });
            let rest = Scene { images: images.collect(), ..scene.clone() };
            prop_assert_eq!(choose(&rest, &rules).images, vec![]);
        }
    }

    #[test]
    fn images_that_depend_on_each_other_in_a_circle_go_only_together() {
        let image = |need| Candidate {
            needs: vec![need],
            files: vec![need],
            ..Candidate::default()
        };
        let scene = Scene {
            images: vec![image(1), image(0)],
            sizes: vec![5, 7],
            fixed: BTreeSet::new(),
        };
        let all = Rules {
            all: true,
            ..Rules::default()
        };
        assert_eq!(choose(&scene, &all).images.len(), 2);
        let size = Rules {
            max_size: Some(1),
            ..Rules::default()
        };
        let chosen = choose(&scene, &size);
        assert_eq!((chosen.images.len(), chosen.short), (0, 11));
    }
}
