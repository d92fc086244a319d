//! What it takes to bring what the kernel holds into the fast path: rules, or the routes of one table; all of them, and one change.

use super::paths::add;
use super::report::UpdateRow;
use super::topology::{Bed, index};
use super::{Error, Result, rules, stats};
use crate::compile::{CounterSlots, Generation, Input, compile};
use crate::fastpath::{Capacity, FastPath, Workload};
use crate::kernel::{Kernel, Netlink};
use crate::model::{Family, Host, Route, Rule, RuleAction};
use router_common::bench::Plan;
use router_common::layout::MAY_REDIRECT;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// More rules than this take minutes to install one by one.
pub const MOST_RULES: u32 = 100_000;
/// So often at most: one of 1,000,000 routes takes seconds.
const MOST_ROUNDS: u32 = 3;
/// The table that has the routes.
const TABLE: u32 = 200;

/// What there is much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Rules.
    Rules,
    /// Routes of one table, which one rule leads to.
    Routes,
}

impl Of {
    /// For a person.
    pub fn name(self) -> &'static str {
        match self {
            Of::Rules => "rules",
            Of::Routes => "routes",
        }
    }
}

/// How long one update took.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    read: Duration,
    compile: Duration,
    write: Duration,
}

/// Measures so many rules or routes: the first load, and one change, each `rounds` times, or three.
pub fn measure(workload: &mut Workload, of: Of, family: Family, size: u32, rounds: u32) -> Result<Vec<UpdateRow>> {
    let plan = Plan::new(rules::family_number(family), size, 2);
    let plan = plan.ok_or_else(|| Error::invalid(format!("{size} {} (1 to 1,048,576)", of.name())))?;
    let bed = Bed::new(workload, 0)?;
    bed.add_tables(rules::FIRST_TABLE)?;
    let subject = Subject::install(&bed, plan, of)?;
    let took = bed.router()?.run(|| subject.rounds(rounds.min(MOST_ROUNDS)))??;
    let row = |update, took: &[Took]| {
        let ms = |part: fn(&Took) -> Duration| {
            let all: Vec<f64> = took.iter().map(|took| part(took).as_secs_f64() * 1e3).collect();
            stats::median(&all)
        };
        UpdateRow {
            read_ms: ms(|took| took.read),
            compile_ms: ms(|took| took.compile),
            write_ms: ms(|took| took.write),
            ..UpdateRow::new(update, of.name(), size, family, ms(|took| took.read + took.compile + took.write))
        }
    };
    let (first, changes): (Vec<Took>, Vec<Took>) = took.into_iter().unzip();
    Ok(vec![row("first load", &first), row("one changed", &changes)])
}

/// What is in the kernel.
struct Subject {
    of: Of,
    /// The last one, as it is and as it is after the change.
    rules: [Rule; 2],
    routes: [Route; 2],
}

impl Subject {
    fn install(bed: &Bed, plan: Plan, of: Of) -> Result<Self> {
        let family = rules::family(&plan);
        let all = match of {
            Of::Rules => rules::flat(&plan),
            Of::Routes => vec![Rule { protocol: nix::libc::RTPROT_STATIC, ..Rule::lookup(family, 1000, TABLE) }],
        };
        let last = all[all.len() - 1].clone();
        let other = Rule { action: RuleAction::Table(other_exit(&plan)), ..last.clone() };
        add(bed, all)?;
        let known = bed.kernel(|kernel| kernel.routes())?;
        let exit = |table| {
            let found = known.iter().find(|route| route.family == family && route.table == table);
            found.cloned().ok_or_else(|| Error::invalid("the route to an exit"))
        };
        let exits = [exit(rules::FIRST_TABLE)?, exit(rules::FIRST_TABLE + 1)?];
        let route = |number, exit: u32| Route {
            table: TABLE,
            dst: rules::prefix(&plan, number),
            ..exits[exit as usize % exits.len()].clone()
        };
        if of == Of::Routes {
            bed.kernel(|kernel| {
                (0..plan.rules).try_for_each(|number| kernel.add_route(&route(number, plan.exit(number))))
            })?;
        }
        let number = plan.rules - 1;
        let routes = [plan.exit(number), plan.exit(number) + 1].map(|exit| route(number, exit));
        Ok(Subject { of, rules: [last, other], routes })
    }

    /// First loads and changes by turns, in the router's namespace.
    fn rounds(&self, rounds: u32) -> Result<Vec<(Took, Took)>> {
        let mut kernel = Netlink::open()?;
        let mut all = Vec::new();
        for round in 0..rounds as usize {
            let mut router = Router::default();
            let first = router.update(&mut kernel)?;
            self.change(&mut kernel, round % 2)?;
            all.push((first, router.update(&mut kernel)?));
        }
        Ok(all)
    }

    fn change(&self, kernel: &mut Netlink, from: usize) -> Result<()> {
        let to = 1 - from;
        match self.of {
            Of::Rules => {
                kernel.add_rule(&self.rules[to])?;
                kernel.delete_rule(&self.rules[from])?;
            }
            Of::Routes => {
                kernel.delete_route(&self.routes[from])?;
                kernel.add_route(&self.routes[to])?;
            }
        }
        Ok(())
    }
}

fn other_exit(plan: &Plan) -> u32 {
    rules::FIRST_TABLE + (plan.exit(plan.rules - 1) + 1) % plan.exits
}

/// What a running router keeps.
#[derive(Default)]
struct Router {
    slots: CounterSlots,
    host: Host,
    generation: Generation,
    fast: Option<FastPath>,
}

impl Router {
    /// Reads, compiles and writes, as the running router does; the first time, the program is loaded.
    fn update(&mut self, kernel: &mut Netlink) -> Result<Took> {
        let begun = Instant::now();
        self.host = kernel.host()?;
        let read = begun.elapsed();
        let may = BTreeMap::from([(index::IN, MAY_REDIRECT)]);
        let begun = Instant::now();
        let input = Input { may, ..Input::default() };
        let generation = compile(&self.host, &input, &mut self.slots);
        let generation = generation.map_err(|error| Error::new("compile", std::io::Error::other(error)))?;
        let compile = begun.elapsed();
        let begun = Instant::now();
        let fast = match &mut self.fast {
            Some(fast) if fast.fits(&generation) => fast,
            place => place.insert(FastPath::load(Capacity::of(&generation))?),
        };
        fast.apply(&generation)?;
        self.generation = generation;
        Ok(Took { read, compile, write: begun.elapsed() })
    }
}
