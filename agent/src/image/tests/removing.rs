//! Removing names and images.

use std::collections::BTreeSet;
use std::fs;

use super::fixture::{Built, Layer, gzip, platform, reader, store};
use crate::image::{ImageError, ImageStore};

fn image(text: &str) -> Built {
    let shared = Layer::default().file("shared", "in all images").end();
    Built::new(&[shared, Layer::default().file("own", text).end()], gzip)
}

async fn load(store: &ImageStore, text: &str, name: &str) -> Built {
    let built = image(text);
    store.load(reader(built.layout(name)), &platform()).await.expect("a sound archive");
    built
}

fn none() -> BTreeSet<crate::image::Digest> {
    BTreeSet::new()
}

#[tokio::test]
async fn the_last_name_takes_the_image_and_only_its_own_layers_with_it() {
    let (folder, store) = store().await;
    let layers = || fs::read_dir(folder.path().join("images/layers")).expect("a folder").count();
    let links = || fs::read_dir(folder.path().join("images/l")).expect("a folder").count();
    let a = load(&store, "a", "a:1").await;
    load(&store, "a", "a:2").await;
    load(&store, "b", "b:1").await;
    assert_eq!(layers(), 3);
    let removed = store.remove("a:1", false, &none()).await.expect("a name");
    assert_eq!((removed.untagged, removed.deleted), (vec!["a:1".to_owned()], None));
    let removed = store.remove("a:2", false, &none()).await.expect("the last name");
    assert_eq!(removed.deleted, Some(a.id()));
    assert_eq!((layers(), links()), (2, 3));
    store.remove("b:1", false, &none()).await.expect("the last image");
    assert_eq!((layers(), links()), (0, 1));
    assert_eq!(fs::read_dir(folder.path().join("images/blobs/sha256")).expect("a folder").count(), 0);
}

#[tokio::test]
async fn what_is_used_unclear_or_unknown_is_not_removed() {
    let (_folder, store) = store().await;
    let a = load(&store, "a", "a:1").await;
    let used = BTreeSet::from([a.id()]);
    let id = a.id().short().to_owned();
    assert!(matches!(store.remove("a:1", false, &used).await, Err(ImageError::InUse { .. })));
    assert!(matches!(store.remove(&id, true, &used).await, Err(ImageError::InUse { .. })));
    assert!(matches!(store.remove("nothing:1", true, &none()).await, Err(ImageError::NoSuchImage { .. })));
    // Forced, the name goes and the layers stay for the task.
    let removed = store.remove("a:1", true, &used).await.expect("only the name");
    assert_eq!((removed.untagged, removed.deleted), (vec!["a:1".to_owned()], None));
    assert_eq!(store.image_by_id(&id).await.expect("still here").id, a.id());
    load(&store, "a", "a:1").await;
    load(&store, "a", "a:2").await;
    assert_eq!(store.list().len(), 2, "a name ends namelessness");
    assert!(matches!(store.remove(&id, false, &none()).await, Err(ImageError::ManyReferences { n_references: 2, .. })));
    store.remove(&id, true, &none()).await.expect("forced");
    assert!(store.list().is_empty());
}

#[tokio::test]
async fn a_prefix_of_several_ids_is_ambiguous() {
    let (_folder, store) = store().await;
    let mut firsts = BTreeSet::new();
    // Seventeen ids cannot all begin with different digits.
    let mut twice = None;
    for i in 0..17 {
        let built = load(&store, &format!("image {i}"), &format!("x{i}:1")).await;
        let first = built.id().hex()[..1].to_owned();
        if !firsts.insert(first.clone()) {
            twice = Some(first);
        }
    }
    let prefix = format!("sha256:{}", twice.expect("two of seventeen"));
    assert!(matches!(store.image_by_id(&prefix).await, Err(ImageError::AmbiguousPrefix { n_matches: 2.., .. })));
    assert!(matches!(store.remove(&prefix, true, &none()).await, Err(ImageError::AmbiguousPrefix { .. })));
}

#[tokio::test]
async fn an_image_that_loses_its_name_to_another_stays_nameless() {
    let (_folder, store) = store().await;
    let old = load(&store, "old", "app:1").await;
    load(&store, "new", "app:1").await;
    let list = store.list();
    assert_eq!(list.len(), 2);
    assert!(list.iter().any(|line| line.id == old.id() && line.reference.is_none()));
    store.remove(old.id().short(), false, &none()).await.expect("by id");
    assert_eq!(store.list().len(), 1);
}
