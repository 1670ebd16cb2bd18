// Linked zoom and blink comparison. Without it the page shows each case as a row of its telling parts.
"use strict";
(() => {
  const section = document.getElementById("compare");
  const cases = [...section.querySelectorAll(".case")];
  const buttons = [...section.querySelectorAll(".chooser button")];
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    // In a sandboxed frame a fragment may resolve to the page around it.
    link.addEventListener("click", (event) => {
      const target = document.getElementById(link.getAttribute("href").slice(1));
      if (!target) return;
      event.preventDefault();
      target.setAttribute("tabindex", "-1");
      target.focus({ preventScroll: true });
      target.scrollIntoView();
    });
  }
  if (!cases.length) return;
  const MAX_ZOOM = 24, BLINK_MS = 700;
  let active = 0, timer = 0;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text) made.textContent = text;
    return made;
  };

  class Viewer {
    constructor(article) {
      this.article = article;
      const number = (name) => Number(article.dataset[name]);
      this.telling = { z: number("zoom"), x: number("x"), y: number("y") };
      [this.height, this.width] = [number("height"), number("width")];
      this.tiles = [...article.querySelectorAll(".tiles figure")];
      this.shown = number("first");
      this.before = this.tiles.findIndex((tile) => tile.querySelector("b").textContent === "bicubic");
      this.view = { ...this.telling };
      this.build();
      this.show(this.shown);
      this.look(this.telling);
    }

    build() {
      const column = this.article.querySelector(".stage-column");
      column.hidden = false;
      this.stage = element("div", "stage");
      this.stage.tabIndex = 0;
      this.stage.setAttribute("role", "group");
      const frame = element("div", "frame");
      this.fit = element("div", "fit");
      this.fit.style.width = `${100 * Math.min(1, this.width / this.height)}%`;
      this.fit.style.height = `${100 * Math.min(1, this.height / this.width)}%`;
      this.images = this.tiles.map((tile) => {
        const image = tile.querySelector("img").cloneNode();
        image.draggable = false;
        this.fit.append(image);
        return image;
      });
      frame.append(this.fit);
      this.badge = element("div", "badge");
      this.badge.setAttribute("aria-live", "polite");
      this.where = element("div", "where");
      this.stage.append(frame, this.badge, this.where);
      column.append(this.stage, this.controls());
      this.tiles.forEach((tile, number) => {
        tile.addEventListener("click", () => this.show(number));
      });
      this.pointers();
    }

    controls() {
      const bar = element("div", "controls");
      const add = (text, title, act) => {
        const button = element("button", "", text);
        button.type = "button";
        button.title = title;
        button.addEventListener("click", act);
        bar.append(button);
        return button;
      };
      add("Blink", "To the picture before, and back (B)", () => this.swap());
      this.auto = add("Auto", "Blink by itself (A)", () => this.blink());
      this.auto.setAttribute("aria-pressed", "false");
      add("+", "Enlarge (+)", () => this.zoom(1.4)).setAttribute("aria-label", "Enlarge");
      add("−", "Reduce (−)", () => this.zoom(1 / 1.4)).setAttribute("aria-label", "Reduce");
      add("Telling part", "Where the errors differ most (T)", () => this.look(this.telling));
      add("Whole slice", "All of it (0)", () => this.look({ z: 1, x: 0.5, y: 0.5 }));
      const smooth = add("Smooth", "Pixels as squares, or smoothed (S)", () => {
        smooth.setAttribute("aria-pressed", String(this.article.classList.toggle("smooth")));
      });
      smooth.setAttribute("aria-pressed", "false");
      this.smooth = smooth;
      const label = element("label", "", "Brightness"), range = element("input");
      Object.assign(range, { type: "range", min: "0.5", max: "3", step: "0.05", value: "1" });
      range.addEventListener("input", () => this.article.style.setProperty("--light", range.value));
      label.append(range);
      bar.append(label);
      return bar;
    }

    show(number) {
      if (number < 0 || number >= this.tiles.length) return;
      if (number !== this.shown) this.before = this.shown;
      this.shown = number;
      this.images.forEach((image, other) => image.classList.toggle("on", other === number));
      this.tiles.forEach((tile, other) => tile.classList.toggle("shown", other === number));
      const caption = this.tiles[number].querySelector("figcaption");
      const name = caption.querySelector("b").textContent;
      const score = caption.lastChild.nodeType === Node.TEXT_NODE ? `  ${caption.lastChild.textContent}` : "";
      this.badge.replaceChildren(element("b", "", `${number + 1} ${name}`), score);
      this.stage.setAttribute("aria-label", `${this.images[number].alt}; keys 1 to ${this.tiles.length}, B to blink`);
    }

    swap() { this.show(this.before); }

    blink(on = !timer) {
      clearInterval(timer);
      timer = on ? setInterval(() => this.swap(), BLINK_MS) : 0;
      this.auto.setAttribute("aria-pressed", String(Boolean(timer)));
    }

    look({ z, x, y }) {
      z = clamp(z, 1, MAX_ZOOM);
      // No further than the edge, unless all of it is in view.
      const half = 0.5 / z;
      this.view = { z, x: clamp(x, half, 1 - half), y: clamp(y, half, 1 - half) };
      for (const [name, value] of Object.entries(this.view)) this.article.style.setProperty(`--${name}`, value.toFixed(5));
      const percent = Math.round(this.stage.clientWidth / Math.max(this.width, this.height) * z * 100);
      this.where.textContent = percent ? `${percent} %` : "";
    }

    zoom(factor, at = { x: 0.5, y: 0.5 }) {
      const { z, x, y } = this.view, now = clamp(z * factor, 1, MAX_ZOOM);
      // What lies under the pointer stays there.
      this.look({ z: now, x: x + (at.x - 0.5) * (1 / z - 1 / now), y: y + (at.y - 0.5) * (1 / z - 1 / now) });
    }

    pan(right, down) {
      const { z, x, y } = this.view;
      this.look({ z, x: x + right / z, y: y + down / z });
    }

    place(event) {
      const box = this.fit.getBoundingClientRect();
      return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height, box };
    }

    pointers() {
      const down = new Map();
      const spread = () => {
        const [one, two] = [...down.values()];
        return Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY);
      };
      this.stage.addEventListener("pointerdown", (event) => {
        down.set(event.pointerId, event);
        this.stage.setPointerCapture(event.pointerId);
        this.stage.focus({ preventScroll: true });
      });
      this.stage.addEventListener("pointermove", (event) => {
        const last = down.get(event.pointerId);
        if (!last) return;
        const { box, ...at } = this.place(event), apart = down.size === 2 ? spread() : 0;
        down.set(event.pointerId, event);
        if (down.size === 2) this.zoom(spread() / (apart || 1), at);
        else this.pan((last.clientX - event.clientX) / box.width, (last.clientY - event.clientY) / box.height);
      });
      for (const name of ["pointerup", "pointercancel"]) {
        this.stage.addEventListener(name, (event) => down.delete(event.pointerId));
      }
      this.stage.addEventListener("wheel", (event) => {
        // The page scrolls until the picture has been chosen.
        if (document.activeElement !== this.stage && !event.ctrlKey) return;
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY * 0.002), this.place(event));
      }, { passive: false });
    }

    key(name) {
      const step = 0.15;
      const acts = {
        b: () => this.swap(), a: () => this.blink(), s: () => this.smooth.click(), t: () => this.look(this.telling), 0: () => this.look({ z: 1, x: 0.5, y: 0.5 }),
        "+": () => this.zoom(1.25), "=": () => this.zoom(1.25), "-": () => this.zoom(0.8),
        n: () => choose(active + 1, true), p: () => choose(active - 1, true),
        ArrowLeft: () => this.pan(-step, 0), ArrowRight: () => this.pan(step, 0),
        ArrowUp: () => this.pan(0, -step), ArrowDown: () => this.pan(0, step),
      };
      if (/^[1-9]$/.test(name)) this.show(Number(name) - 1);
      else if (acts[name]) acts[name]();
      else return false;
      return true;
    }
  }

  section.classList.add("interactive");
  for (const hidden of section.querySelectorAll(".screen-only")) hidden.hidden = false;
  const keys = section.querySelector(".keys");
  const viewers = cases.map((article) => new Viewer(article));

  function choose(number, focus = false) {
    viewers[active].blink(false);
    active = (number + cases.length) % cases.length;
    cases.forEach((article, other) => article.classList.toggle("active", other === active));
    buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === active)));
    viewers[active].look(viewers[active].view);
    cases[active].querySelector(".side").append(keys);
    if (focus) viewers[active].stage.focus({ preventScroll: true });
  }

  buttons.forEach((button, number) => button.addEventListener("click", () => choose(number)));
  section.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input")) return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (viewers[active].key(name)) event.preventDefault();
  });
  addEventListener("resize", () => viewers[active].look(viewers[active].view));
  choose(Math.max(0, cases.findIndex((article) => "start" in article.dataset)));
})();
