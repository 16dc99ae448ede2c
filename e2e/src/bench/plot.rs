//! The ratios as a picture: one bar for each figure and peer, on a logarithmic axis whose middle is a draw.

use std::fmt::Write as _;

use crate::bench::report::short;

const LINE: f64 = 30.0;
const LEFT: f64 = 230.0;
const WIDTH: f64 = 900.0;
/// Pixels for a factor of two.
const OCTAVE: f64 = 95.0;
const MIDDLE: f64 = 520.0;
/// Bars end here: a factor of eight either way.
const OCTAVES_MAX: f64 = 3.0;

/// Name, ratio to HAProxy, ratio to Envoy.
type Bar = (String, Option<f64>, Option<f64>);

/// An SVG that needs nothing else.
pub fn svg(bars: &[Bar]) -> String {
    let height = LINE * (bars.len() as f64 + 2.0) + 30.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\">Leno in relation to HAProxy and Envoy, one run (1 = as much)</text>\n"
    );
    legend(&mut out);
    let bottom = LINE * (bars.len() as f64 + 1.6) + 10.0;
    for (label, octave) in [("1/8", -3.0), ("1/4", -2.0), ("1/2", -1.0), ("1", 0.0), ("2", 1.0), ("4", 2.0), ("8", 3.0)]
    {
        let x = MIDDLE + octave * OCTAVE;
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" y1=\"36\" x2=\"{x}\" y2=\"{bottom}\" stroke=\"#ddd\"/><text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{label}</text>",
            bottom + 15.0
        );
    }
    for (number, (name, haproxy, envoy)) in bars.iter().enumerate() {
        let y = LINE * (number as f64 + 1.3) + 6.0;
        let _ =
            writeln!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", LEFT - 8.0, y + 15.0, escape(name));
        for (ratio, offset, colour) in [(haproxy, 2.0, HAPROXY), (envoy, 13.0, ENVOY)] {
            let Some(ratio) = ratio.filter(|ratio| *ratio > 0.0) else { continue };
            let length = ratio.log2().clamp(-OCTAVES_MAX, OCTAVES_MAX) * OCTAVE;
            let (x, width) = (MIDDLE + length.min(0.0), length.abs().max(1.0));
            let at = if length < 0.0 { (x - 4.0, "end") } else { (x + width + 4.0, "start") };
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"9\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\" text-anchor=\"{}\">{}</text>",
                y + offset,
                at.0,
                y + offset + 9.0,
                at.1,
                short(ratio)
            );
        }
    }
    out + "</svg>\n"
}

const HAPROXY: &str = "#2b6cb0";
const ENVOY: &str = "#b83280";

fn legend(out: &mut String) {
    for (x, colour, name) in [(560.0, HAPROXY, "to HAProxy"), (680.0, ENVOY, "to Envoy")] {
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"12\" width=\"12\" height=\"9\" fill=\"{colour}\"/><text x=\"{}\" y=\"21\">{name}</text>",
            x + 17.0
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
