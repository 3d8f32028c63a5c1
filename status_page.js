// What the page knows, how it learns it, and when it draws it.

const cards = new Map(); // by the lock's name
let names = [];          // of all locks, in order
let clock;               // how much Caddy's clock is ahead of ours, in ms
let taken;               // the number of the last sample
let version;             // of this page
const byId = id => document.getElementById(id);

const now = () => (Date.now() + (clock ?? 0)) / 1000;

// The stream. EventSource connects again by itself, as after a reload, but not after every
// kind of failure, and it does not notice a peer that is silent.
const silence = 5000, giveUp = 15000;
let stream, last = Date.now(), since, lost = false;

function connect() {
	stream?.close();
	stream = new EventSource(location.href); // the path alone may begin with two slashes, as a host does
	last = Date.now();
	for (const [event, hear] of Object.entries({ history, locks, sample })) {
		stream.addEventListener(event, message => {
			last = Date.now();
			since = undefined;
			hear(JSON.parse(message.data));
			live();
		});
	}
	stream.addEventListener('error', () => { since ??= Date.now(); });
}

function watch() {
	const silent = Date.now() - last;
	if (silent > silence) since ??= last;
	if (since && (silent > giveUp || stream.readyState === EventSource.CLOSED && silent > 2000)) connect();
	live();
}

function live() {
	lost = since !== undefined && Date.now() - since > 1000; // a reload takes less
	const state = lost ? 'lost' : version ? 'live' : 'wait';
	set(byId('state'), 'data-state', state);
	say(byId('live'), { lost: 'no connection to Caddy, trying again', live: 'live', wait: 'connecting' }[state]);
	say(byId('lost'), lost ? age((Date.now() - since) / 1000) : ''); // not for those who hear the page, each second
	document.body.toggleAttribute('data-lost', lost);
	title();
}

// The events of the stream: see status_stream.go.

function history(news) {
	if (version && version !== news.page) renew(news.page);
	version = news.page;
	taken = news.n;
	for (const card of cards.values()) for (const figure of figures) card.series[figure] = [];
	past = news.locks;
	for (const name of Object.keys(past)) recall(name);
}

// renew loads the page again, because Caddy has another one now. It does so once for each: behind
// a balancer, two Caddys of different builds would have it load for ever.
function renew(page) {
	const key = 'tcplock page';
	if (sessionStorage.getItem(key) === page) return;
	sessionStorage.setItem(key, page);
	location.reload();
}

let past = {}; // of locks that are not known yet

function recall(name) {
	const card = cards.get(name), series = past[name];
	if (!card || !series) return;
	delete past[name];
	const length = Math.max(...Object.values(series).map(values => values.length));
	for (const figure of figures) card.series[figure] = series[figure] ?? Array(length).fill(blank[figures.indexOf(figure)]);
}

// blank is the sample of a lock at which nothing happens. It is not sent.
const blank = [0, null, null, 0, 0];

function sample(news) {
	const missed = Math.min(seconds, Math.max(0, news.n - taken - 1));
	taken = news.n;
	for (const [name, card] of cards) {
		for (let i = 0; i < missed; i++) card.add(Array(figures.length).fill(null));
		card.add(news.locks[name] ?? blank);
	}
	draw();
}

function locks(news) {
	const ahead = Date.parse(news.now) - Date.now();
	// The least delayed message tells best; a clock that was set tells anew.
	if (clock === undefined || ahead > clock || ahead < clock - 5000) clock = ahead;
	if (news.names) rename(news.names.sort());
	for (const lock of news.locks) {
		const card = cards.get(lock.name);
		card.show(lock);
		stale(card);
	}
	if (news.names) choose();
	sum();
}

// rename makes the cards those of these locks, in this order.
function rename(all) {
	const kept = new Set(all);
	for (const [name, card] of cards) {
		if (kept.has(name)) continue;
		seen.unobserve(card.element);
		card.element.remove();
		cards.delete(name);
	}
	names = all;
	let before = byId('locks').firstElementChild;
	for (const name of all) {
		let card = cards.get(name);
		if (card?.element === before) {
			before = before.nextElementSibling;
			continue;
		}
		if (!card) {
			card = new Card(name, all.length <= few);
			card.element.card = card;
			cards.set(name, card);
			recall(name);
			seen.observe(card.element);
		}
		byId('locks').insertBefore(card.element, before);
	}
	byId('none').hidden = all.length > 0;
	byId('tools').hidden = all.length <= few;
}

function sum() {
	let held = 0, waiting = 0;
	for (const { lock } of cards.values()) {
		held += lock.held;
		waiting += lock.waiting;
	}
	say(byId('sum'), `${location.host} · ${plural(names.length, 'lock')} · ${number(held)} held · ${number(waiting)} waiting`);
	said = waiting ? `${number(waiting)} waiting · ` : '';
	title();
}

let said = '';

function title() {
	const text = `${lost ? 'no connection · ' : said}tcplock`;
	if (document.title !== text) document.title = text;
}

// Drawing: once a frame at most and, of many, only what is in sight.

const drawn = card => card.inSight || cards.size <= few;

const dirty = new Set();
let asked = false;

const seen = new IntersectionObserver(entries => {
	for (const { target, isIntersecting } of entries) {
		target.card.inSight = isIntersecting;
		if (isIntersecting) stale(target.card);
	}
}, { rootMargin: '300px' });

function stale(card) {
	dirty.add(card);
	if (asked) return;
	asked = true;
	requestAnimationFrame(() => {
		asked = false;
		const at = now();
		for (const card of dirty) if (card.told && drawn(card)) card.draw(at);
		dirty.clear();
	});
}

function draw() {
	for (const card of cards.values()) if (drawn(card)) stale(card);
}

// choose hides the locks that are not asked for.
function choose() {
	const text = byId('filter').value.trim().toLowerCase(), which = byId('which').value;
	let shown = 0;
	for (const card of cards.values()) {
		if (!card.told) continue;
		const fits = card.name.toLowerCase().includes(text) && (which === 'all' || (which === 'busy' ? card.busy : marksOf(card.lock, now()).length > 0));
		card.element.hidden = !fits;
		shown += fits;
	}
	say(byId('shown'), shown === names.length ? '' : `${number(shown)} of ${number(names.length)}`);
}

byId('tools').addEventListener('input', choose);
byId('tools').addEventListener('submit', event => event.preventDefault());
addEventListener('resize', draw);
setInterval(() => {
	watch();
	if (byId('which').value !== 'all') choose();
	draw(); // the times go on
}, 1000);
connect();
