//! pi0 as two graphs, *perceive* and *act*, for any configuration; and the checkpoint that fills them.
