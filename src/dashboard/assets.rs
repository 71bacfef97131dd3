//! The page's files, as they are in the binary: it works without a file system and without a network. Served by
//! `routes`.

/// A file of the page.
pub struct Asset {
    pub path: &'static str,
    pub content_type: &'static str,
    pub text: &'static str,
}

const fn script(path: &'static str, text: &'static str) -> Asset {
    Asset { path, content_type: "text/javascript; charset=utf-8", text }
}

pub static ALL: &[Asset] = &[
    Asset { path: "/", content_type: "text/html; charset=utf-8", text: include_str!("page/index.html") },
    Asset { path: "/page.css", content_type: "text/css; charset=utf-8", text: include_str!("page/page.css") },
    Asset { path: "/icon.svg", content_type: "image/svg+xml", text: include_str!("page/icon.svg") },
    script("/main.js", include_str!("page/main.js")),
    script("/draw.js", include_str!("page/draw.js")),
    script("/status.js", include_str!("page/status.js")),
    script("/timeline.js", include_str!("page/timeline.js")),
    script("/breakdown.js", include_str!("page/breakdown.js")),
    script("/latency.js", include_str!("page/latency.js")),
    script("/chunk.js", include_str!("page/chunk.js")),
];
