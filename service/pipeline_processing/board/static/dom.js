// Builds and updates the page's elements. Text only ever becomes text nodes, so that no value can become markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Return an element.
 *
 * `attributes`: null, undefined and false leave an attribute out, true sets it empty, and `style` is an object of CSS
 * properties (set by CSSOM, which the content security policy allows, unlike a `style` attribute).
 * `children`: nodes, text, numbers, and lists of them; null, undefined and false are left out.
 */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return an SVG element. Parameters as for `el`. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") {
      for (const [property, setting] of Object.entries(value)) element.style.setProperty(property, setting);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...nodes(children));
  return element;
}

/** Return `children` as a flat list of nodes. */
export function nodes(children) {
  return [children]
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

/**
 * Make the children of `parent` equal to `wanted`, and change as little as possible: focus, selection and scroll
 * positions stay. Elements with a `data-key` are recognised wherever they are among their siblings. Of an element with
 * `data-keep`, only the first version is used, such as of a chart that draws itself.
 */
export function patch(parent, wanted) {
  const present = new Map();
  for (const child of parent.children) if (child.dataset.key) present.set(child.dataset.key, child);
  const keys = new Set(wanted.map(keyOf).filter(Boolean));
  let place = parent.firstChild;
  const removeGone = () => {
    while (place && keyOf(place) && !keys.has(keyOf(place))) place = removed(place);
  };
  for (const node of wanted) {
    removeGone();
    const key = keyOf(node);
    const old = key ? present.get(key) : place && !keyOf(place) ? place : null;
    if (old && alike(old, node)) {
      if (old === place) place = place.nextSibling;
      else parent.insertBefore(old, place);
      update(old, node);
    } else {
      parent.insertBefore(node, place);
      if (old) {
        if (old === place) place = place.nextSibling;
        old.remove();
      }
    }
  }
  while (place) place = removed(place);
}

function removed(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.dataset.key : undefined;
}

function alike(old, node) {
  return old.nodeType === node.nodeType && old.nodeName === node.nodeName;
}

function update(old, node) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== node.data) old.data = node.data;
    return;
  }
  if ("keep" in old.dataset && old.dataset.keep === node.dataset.keep) return;
  for (const { name } of [...old.attributes]) {
    // Whether details are open is the reader's choice.
    if (!node.hasAttribute(name) && name !== "style" && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of node.attributes) {
    if (name !== "style" && name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.style.cssText !== node.style.cssText) old.style.cssText = node.style.cssText;
  patch(old, [...node.childNodes]);
}
