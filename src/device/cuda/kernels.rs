//! Our kernels: CUDA C of which each file is one idea, made for types and sizes by definitions. Many become one source text, which
//! NVRTC compiles for a GPU, and a test for the CPU. Called by `lower`, which names kernels, and by `driver`.

use std::fmt::Write;

use super::program::Element;

/// What only a GPU has.
pub const MACHINE: &str = include_str!("kernels/machine.cuh");
const COMMON: &str = include_str!("kernels/common.cuh");

/// Every file with its text.
const FILES: [(&str, &str); 17] = [
    ("activate", include_str!("kernels/activate.cu")),
    ("add", include_str!("kernels/add.cu")),
    ("attention", include_str!("kernels/attention.cu")),
    ("attention_join", include_str!("kernels/attention_join.cu")),
    ("attention_tensor", include_str!("kernels/attention_tensor.cu")),
    ("choose", include_str!("kernels/choose.cu")),
    ("copy", include_str!("kernels/copy.cu")),
    ("embedding", include_str!("kernels/embedding.cu")),
    ("gated", include_str!("kernels/gated.cu")),
    ("guide", include_str!("kernels/guide.cu")),
    ("multiply", include_str!("kernels/multiply.cu")),
    ("norm", include_str!("kernels/norm.cu")),
    ("patches", include_str!("kernels/patches.cu")),
    ("positions", include_str!("kernels/positions.cu")),
    ("prefix_mask", include_str!("kernels/prefix_mask.cu")),
    ("rotary", include_str!("kernels/rotary.cu")),
    ("rotary_table", include_str!("kernels/rotary_table.cu")),
];

/// A kernel: a file and what it is made for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kernel {
    /// Without its ending.
    pub file: &'static str,
    /// Names and values of its definitions.
    definitions: Vec<(&'static str, String)>,
}

impl Kernel {
    pub fn new(file: &'static str) -> Self {
        Self { file, definitions: Vec::new() }
    }

    /// With a type.
    pub fn element(self, name: &'static str, element: Element) -> Self {
        self.word(name, element.name())
    }

    /// With a number.
    pub fn number(mut self, name: &'static str, value: usize) -> Self {
        self.definitions.push((name, value.to_string()));
        self
    }

    /// With a word.
    pub fn word(mut self, name: &'static str, value: &str) -> Self {
        self.definitions.push((name, value.into()));
        self
    }

    /// Name of the function: `norm_IN_float_OUT_bf16`.
    pub fn name(&self) -> String {
        let parts = self.definitions.iter().map(|(name, value)| format!("_{name}_{value}"));
        self.file.to_owned() + &parts.collect::<String>()
    }
}

/// The source text of these kernels, with what stands for the machine before them.
pub fn source(machine: &str, kernels: &[Kernel]) -> String {
    let mut text = format!("{machine}\n{COMMON}\n");
    for kernel in kernels {
        let known = FILES.iter().find(|(file, _)| *file == kernel.file);
        let definitions = || {
            let own = [("NAME", kernel.name())].into_iter();
            own.chain(kernel.definitions.iter().map(|(name, value)| (*name, value.clone())))
        };
        definitions().for_each(|(name, value)| _ = writeln!(text, "#define {name} {value}"));
        text += known.map_or("", |(_, text)| text);
        definitions().for_each(|(name, _)| _ = writeln!(text, "#undef {name}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_each_kernel_under_a_name_of_its_own() {
        let norm = |out| {
            let kernel = Kernel::new("norm").element("IN", Element::F32).element("OUT", out);
            kernel.number("CENTRED", 0).number("VECTOR", 4)
        };
        let kernels = [norm(Element::F32), norm(Element::Bf16)];
        assert_eq!(kernels[1].name(), "norm_IN_float_OUT_bf16_CENTRED_0_VECTOR_4");
        let text = source(MACHINE, &kernels);
        for kernel in &kernels {
            assert_eq!(text.matches(&format!("#define NAME {}\n", kernel.name())).count(), 1);
        }
        assert_eq!(text.matches("#define VECTOR 4").count(), text.matches("#undef VECTOR").count());
    }
}
