//! The tables of parameters in the documentation are those of the program.

use std::path::Path;

use pi0_node::settings::markdown_reference;

const START: &str = "<!-- parameters -->\n";
const END: &str = "<!-- end of parameters -->";

/// With PI0_WRITE_DOCS set, the table is written.
#[test]
fn the_documented_parameters_are_those_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ros2.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(START).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let expected = markdown_reference();
    if std::env::var_os("PI0_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{START}{expected}{END}{after}")).unwrap();
    } else {
        assert!(
            found == expected,
            "docs/ros2.md is of another table; run: PI0_WRITE_DOCS=1 cargo test --test reference"
        );
    }
}
