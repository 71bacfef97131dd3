//! Bags as rosbag2 compresses them (tests/data/compress_bags.py): by file and by message, with metadata and without, split, cut short.

#[path = "support/bags.rs"]
mod bags;

use std::fs;
use std::path::{Path, PathBuf};

use pi0_node::bag::Bag;
use pi0_node::observe::messages::Stamp;

/// Topic name, log time and bytes of a message.
type Found = (String, Stamp, Vec<u8>);

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Every message.
fn read_all(bag: &mut Bag) -> Vec<Found> {
    let names: Vec<String> = bag.topics().iter().map(|topic| topic.name.clone()).collect();
    let topics: Vec<&str> = names.iter().map(String::as_str).collect();
    let messages = bag.messages(&topics).unwrap().map(|message| message.unwrap());
    messages.map(|message| (names[message.topic].clone(), message.log_time, message.data)).collect()
}

fn read(name: &str) -> Vec<Found> {
    let mut bag = Bag::open(&data(name)).unwrap();
    assert_eq!(bag.problems(), []);
    read_all(&mut bag)
}

#[test]
fn what_rosbag2_compressed_gives_the_same_messages() {
    let plain = read("bags/plain");
    for name in ["mcap_by_file", "mcap_by_message", "sqlite3_by_file", "sqlite3_by_message"] {
        let folder = format!("bags/{name}");
        assert_eq!(read(&folder), plain, "{name}");
        // Without metadata, and the file alone.
        let copied = tempfile::tempdir().unwrap();
        let files = fs::read_dir(data(&folder)).unwrap().map(|entry| entry.unwrap().path());
        let file = files.into_iter().find(|path| !path.ends_with("metadata.yaml")).unwrap();
        let alone = copied.path().join(file.file_name().unwrap());
        fs::copy(&file, &alone).unwrap();
        for path in [copied.path(), &alone] {
            let mut bag = Bag::open(path).unwrap();
            assert!(
                bag.problems().iter().all(|problem| problem.message.contains("there is no metadata.yaml"))
            );
            assert_eq!(read_all(&mut bag), plain, "{}", path.display());
        }
    }
}

/// The plain bag split in two, as `ros2 bag record --max-bag-size` does it, each file compressed.
fn split(folder: &Path) {
    let mut number = 0;
    let mut half = false;
    for name in ["split_0.mcap", "split_1.mcap"] {
        number = 0;
        bags::copy(&data("bags/plain"), &folder.join(name), |_, message| {
            number += 1;
            ((number > 20) == half).then_some(message)
        });
        half = true;
        let bytes = fs::read(folder.join(name)).unwrap();
        fs::write(folder.join(format!("{name}.zstd")), zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
        fs::remove_file(folder.join(name)).unwrap();
    }
    assert_eq!(number, 40);
    let metadata = "rosbag2_bagfile_information:\n  compression_format: zstd\n  compression_mode: FILE\n  \
                    relative_file_paths: [split_0.mcap.zstd, split_1.mcap.zstd]\n";
    fs::write(folder.join("metadata.yaml"), metadata).unwrap();
}

#[test]
fn a_compressed_bag_may_be_split_and_half_decompressed() {
    let (folder, plain) = (tempfile::tempdir().unwrap(), read("bags/plain"));
    split(folder.path());
    let read = || {
        let mut bag = Bag::open(folder.path()).unwrap();
        let problems: Vec<String> = bag.problems().iter().map(|problem| problem.message.clone()).collect();
        (read_all(&mut bag), problems)
    };
    assert_eq!(read(), (plain.clone(), vec![]));
    // `ros2 bag play` leaves what it has decompressed beside the compressed file.
    let compressed = folder.path().join("split_1.mcap.zstd");
    let bytes = zstd::decode_all(&fs::read(&compressed).unwrap()[..]).unwrap();
    fs::write(folder.path().join("split_1.mcap"), &bytes).unwrap();
    assert_eq!(read(), (plain.clone(), vec![]));
    fs::remove_file(folder.path().join("metadata.yaml")).unwrap();
    assert_eq!(read().0, plain);
    fs::remove_file(compressed).unwrap();
    assert_eq!(read().0, plain);
}

#[test]
fn a_compressed_file_cut_short_gives_what_it_holds() {
    let plain = read("bags/plain");
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(data("bags/mcap_by_file/mcap_by_file.mcap.zstd")).unwrap();
    let cut = folder.path().join("cut.mcap.zstd");
    fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    match Bag::open(&cut) {
        Ok(mut bag) => {
            let said = bag.problems()[0].message.clone();
            assert!(
                said.starts_with("is damaged or cut short (")
                    && said.ends_with("bytes that it holds are used"),
                "{said}"
            );
            let found = read_all(&mut bag);
            assert!(found.len() < plain.len() && found.iter().all(|message| plain.contains(message)));
        }
        // The whole bag is one block of the compressor.
        Err(error) => assert!(error.to_string().contains("cut.mcap.zstd: is no zstd file: "), "{error}"),
    }
    fs::write(&cut, b"this is no zstd file").unwrap();
    let error = Bag::open(&cut).err().unwrap().to_string();
    assert!(error.contains("cut.mcap.zstd: is no zstd file: "), "{error}");
}

#[test]
fn a_compression_that_is_not_known_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let metadata =
        "rosbag2_bagfile_information:\n  compression_format: lz4\n  relative_file_paths: [a.mcap.lz4]\n";
    fs::write(folder.path().join("metadata.yaml"), metadata).unwrap();
    let error = Bag::open(folder.path()).err().unwrap().to_string();
    assert!(
        error.ends_with("it is compressed by 'lz4'; zstd is supported: convert it with `ros2 bag convert`"),
        "{error}"
    );
}
