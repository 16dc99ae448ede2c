use super::*;

const DUMP: &str = "version: 1
events: Ir
fn=(1) proxy::serve
10 5
cfn=(2) mi_malloc'__rustc::__rust_alloc'alloc::raw_vec::finish_grow'proxy::parse'proxy::serve
calls=3 20
11 900
+2 7
fn=(2)
20 30
cfn=(3) mi_malloc_aligned
calls=3 0
20 600
fn=(3)
0 600
fn=(1)
cfn=(2)
calls=1 20
* 300
totals: 642
";

#[test]
fn counts_what_each_function_cost_itself() {
    let counts = Counts::parse(DUMP);
    assert_eq!(counts.instructions, 642);
    assert_eq!(counts.own["proxy::serve"], 12);
    assert_eq!(counts.own["mi_malloc_aligned"], 600);
}

#[test]
fn counts_allocations_by_who_asked_for_them() {
    let counts = Counts::parse(DUMP);
    assert_eq!(counts.allocations, 4);
    assert_eq!(counts.allocated_by["proxy::parse < proxy::serve"], 4);
}
