//! Flipped bits: never wrong bytes, never a silent loss beyond the very last batch.

use super::crash::{Dice, run};
use super::*;

#[derive(Default, Debug)]
struct Tally {
    n_refused: u32,
    n_unharmed: u32,
    n_last_batch_lost: u32,
}

fn flip(run: &super::crash::Run, name: &str, dice: &mut Dice, tally: &mut Tally) {
    let mut files = run.fs.files();
    let bytes = files.get_mut(name).unwrap();
    let bit = dice.roll() as usize % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    let n = run.states.len();
    match reopen(run.dir.path(), &files) {
        Err(error) => {
            let text = error.to_string();
            assert!(matches!(error, DiskError::Rot { .. }), "not called rot: {text}");
            assert!(text.contains(name) && text.contains("join it again"), "{text}");
            tally.n_refused += 1;
        }
        Ok(found) if found == run.states[n - 1] => tally.n_unharmed += 1,
        Ok(found) if found == run.states[n - 2] => tally.n_last_batch_lost += 1,
        Ok(_) => panic!("a flipped bit {bit} of {name} changed the log silently"),
    }
}

#[test]
fn a_flipped_bit_is_refused_or_costs_the_last_batch_only() {
    let run = run(3, 120, 0);
    let files = run.fs.files();
    let newest = files.keys().rfind(|n| n.ends_with(".raftlog")).unwrap().clone();
    let older: Vec<String> = files.keys().filter(|n| **n != newest && files[*n].len() > 64).cloned().collect();
    assert!(!older.is_empty(), "the run must have closed files: {:?}", files.keys());
    let mut dice = Dice(99);
    let (mut in_newest, mut in_older) = (Tally::default(), Tally::default());
    for n in 0..400 {
        flip(&run, &newest, &mut dice, &mut in_newest);
        flip(&run, &older[n % older.len()], &mut dice, &mut in_older);
    }
    println!("newest file: {in_newest:?}, older: {in_older:?}");
    assert!(in_newest.n_refused > 150, "{in_newest:?}");
    assert!(in_newest.n_last_batch_lost < 200, "{in_newest:?}");
    assert!(in_older.n_refused > 350, "{in_older:?}");
}
