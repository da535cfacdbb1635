//! lazyroot: container root file systems from unmodified images, mounted
//! without unpacking.
//!
//! Modules stand on floors and use lower floors only (`tests/floors.rs`).
//!
//! | floor | module | what it is for |
//! |---|---|---|
//! | 0 words | [`appc`] | what AppC calls things: identifiers, labels, references |
//! | | [`backend_kind`] | what ways to get a rootfs are called |
//! | | [`container_id`] | what a container is called |
//! | | [`causes`] | an error and what caused it, in one line |
//! | | [`digest`] | digests, and one type per kind of name |
//! | | [`fork`] | doubling a process |
//! | | [`reference`](mod@reference) | image references, parsed once |
//! | | [`memory`] | memory that is free goes back to the system |
//! | | [`node`] | what `stat` tells of one object |
//! | | [`tree_path`] | a path that cannot leave its tree |
//! | | [`user_namespace`] | whether a process has the machine's user namespace |
//! | 1 formats | [`layer`] | what one layer says: index format, tar reader, seek points |
//! | | [`image`] | what an image says: Docker archives, OCI layouts, AppC manifests |
//! | | [`mesos`] | messages of Mesos in JSON: containers, images, garbage collection |
//! | 2 places, heart | [`store`] | the content store on disk |
//! | | [`archive`] | a tar, a directory or standard input as files of an image |
//! | | [`discovery`] | where images come from: local, simple, meta; signatures |
//! | | [`http`] | requests over HTTP, bounded |
//! | | [`registry`] | the distribution API: images from registries, and back |
//! | | [`mounts`] | the mount table; mounting and unmounting |
//! | | [`remove`] | removing a tree without leaving its mount |
//! | | [`union`](mod@union) | the heart: layers make one tree; no disk, no kernel |
//! | 3 movers | [`export`] | a stored image as an archive |
//! | | [`import`] | an image's layers into the store |
//! | | [`fuse`] | a tree shown through FUSE; the only home of the crate `fuser` |
//! | | [`upper`] | the upper directory of a writable mount, on disk |
//! | | [`verify`] | reading all of an image again, to find damage |
//! | | [`view`] | a stored image as one tree |
//! | 4 backends | [`backend`] | ways to get a rootfs: a FUSE server in the background |
//! | | [`changed`] | a stored image with its changes, to be looked at |
//! | 5 operators | [`commit`](mod@commit) | changes become an image |
//! | | [`container`] | the life of containers: provision, destroy, recover |
//! | | [`launch`] | running something in a root file system |
//! | 6 people | [`cli`] | one file per verb |
//!
//! Where to start: [`layer::format`] for the formats, [`union`](mod@union) for the
//! rules, [`import`] for how an image gets in.

pub mod appc;
pub mod archive;
pub mod backend;
pub mod backend_kind;
pub mod causes;
pub mod changed;
pub mod cli;
pub mod commit;
pub mod container;
pub mod container_id;
pub mod digest;
pub mod discovery;
pub mod export;
pub mod fork;
pub mod fuse;
pub mod http;
pub mod image;
pub mod import;
pub mod launch;
pub mod layer;
pub mod memory;
pub mod mesos;
pub mod mounts;
pub mod node;
pub mod reference;
pub mod registry;
pub mod remove;
pub mod store;
pub mod tree_path;
pub mod union;
pub mod upper;
pub mod user_namespace;
pub mod verify;
pub mod view;
