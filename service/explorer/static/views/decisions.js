// What was decided of labels, row by row; kept for this tab of the browser, so that a reload loses nothing.

export const WORDS = { right: "Right", wrong: "Wrong", drop: "Drop", relabel: "Relabel" };

export class Decisions {
  constructor(job) {
    this.key = `upweight-cleaning-${job}`;
    this.history = read(this.key);
    this.taken = new Map(this.history.map(([id, decision]) => [id, decision]));
  }

  get canUndo() {
    return this.history.length > 0;
  }

  of(id) {
    return this.taken.get(id) ?? null;
  }

  take(id, decision) {
    this.history.push([id, decision]);
    this.taken.set(id, decision);
    this.keep();
  }

  /** Takes the last decision back, and what was decided of that row before stands again; the row, or null. */
  undo() {
    const last = this.history.pop();
    if (!last) return null;
    const [id] = last;
    const before = this.history.findLast(([each]) => each === id);
    if (before) this.taken.set(id, before[1]);
    else this.taken.delete(id);
    this.keep();
    return id;
  }

  /** {drop, relabel, right}: what the service is told, and how many stay as they are. `wrong`: drop, or predicted. */
  changes(wrong) {
    const drop = [];
    const relabel = {};
    let right = 0;
    for (const [id, { kind, label, predicted, was }] of this.taken) {
      const given = kind === "relabel" ? label : kind === "wrong" && wrong === "predicted" && predicted !== was ? predicted : null;
      if (kind === "right") right += 1;
      else if (given === null) drop.push(id);
      else relabel[id] = given;
    }
    return { drop, relabel, right };
  }

  keep() {
    try {
      sessionStorage.setItem(this.key, JSON.stringify(this.history));
    } catch {
      // without storage they last until the page is left
    }
  }
}

function read(key) {
  try {
    return JSON.parse(sessionStorage.getItem(key)) ?? [];
  } catch {
    return [];
  }
}
