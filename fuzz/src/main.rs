//! `tidings-fuzz seeds TARGET FOLDER` writes the target's seeds, one a file; `tidings-fuzz run TARGET
//! FILE…` runs inputs. The rest is in the library.

use std::error::Error;
use std::fs;
use std::path::Path;

const USAGE: &str = "usage: tidings-fuzz seeds TARGET FOLDER | run TARGET FILE…";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match *args.as_slice() {
        ["seeds", name, folder] => {
            let target = tidings_fuzz::target(name).ok_or(USAGE)?;
            fs::create_dir_all(folder)?;
            for (at, seed) in (target.seeds)().into_iter().enumerate() {
                fs::write(Path::new(folder).join(format!("seed-{at:03}")), seed)?;
            }
        }
        ["run", name, ref files @ ..] if tidings_fuzz::target(name).is_some() => {
            for file in files {
                println!("{file}");
                tidings_fuzz::run(name, &fs::read(file)?);
            }
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}
