/* Views by key: a hash table whose slots can be fetched into the processor's cache ahead of time, which a dict's cannot.
 * Open addressing, linear probing; at most two thirds full.
 */
#include "native.h"

#define LEAST_SLOTS 64

#if PY_VERSION_HEX >= 0x030d0000 && PY_VERSION_HEX < 0x030e0000
PyAPI_FUNC(Py_hash_t) _Py_HashBytes(const void *, Py_ssize_t); /* exported as before and after, but declared nowhere */
#endif

Py_hash_t
hash_of(const char *text, Py_ssize_t size)
{
#if PY_VERSION_HEX >= 0x030e0000
    return Py_HashBuffer(text, size);
#else
    return _Py_HashBytes(text, size);
#endif
}

static int
is_text(PyObject *key, const char *text, Py_ssize_t size)
{
    return PyUnicode_IS_COMPACT_ASCII(key) && PyUnicode_GET_LENGTH(key) == size &&
           memcmp(PyUnicode_DATA(key), text, (size_t)size) == 0;
}

/* The slot of an ASCII text; NULL where there is none. */
Slot *
views_find_text(const Views *self, Py_hash_t hash, const char *text, Py_ssize_t size)
{
    for (size_t i = (size_t)hash & self->mask; self->slots[i].key != NULL; i = (i + 1) & self->mask)
        if (self->slots[i].hash == hash && is_text(self->slots[i].key, text, size))
            return &self->slots[i];
    return NULL;
}

/* The first slot with a hash, most likely that of the key; NULL where there is none. */
Slot *
views_peek(const Views *self, Py_hash_t hash)
{
    for (size_t i = (size_t)hash & self->mask; self->slots[i].key != NULL; i = (i + 1) & self->mask)
        if (self->slots[i].hash == hash)
            return &self->slots[i];
    return NULL;
}

/* Index of a key's slot, or of the empty one where it would be; -1 for an error. */
static Py_ssize_t
find(const Views *self, PyObject *key)
{
    if (!PyUnicode_Check(key)) {
        PyErr_Format(PyExc_TypeError, "keys are str, not %s", Py_TYPE(key)->tp_name);
        return -1;
    }
    Py_hash_t hash = PyObject_Hash(key);
    if (hash == -1)
        return -1;
    size_t i = (size_t)hash & self->mask;
    for (; self->slots[i].key != NULL; i = (i + 1) & self->mask)
        if (self->slots[i].hash == hash && (self->slots[i].key == key || PyUnicode_Compare(self->slots[i].key, key) == 0))
            break;
    return (Py_ssize_t)i;
}

/* The slot of a key; NULL, perhaps with an exception, where there is none. */
Slot *
views_find(const Views *self, PyObject *key)
{
    Py_ssize_t i = find(self, key);
    return i < 0 || self->slots[i].key == NULL ? NULL : &self->slots[i];
}

static int
resize(Views *self, size_t size)
{
    Slot *slots = PyMem_Calloc(size, sizeof(Slot));
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t old = 0; self->slots != NULL && old <= self->mask; old++) {
        if (self->slots[old].key == NULL)
            continue;
        size_t i = (size_t)self->slots[old].hash & (size - 1);
        while (slots[i].key != NULL)
            i = (i + 1) & (size - 1);
        slots[i] = self->slots[old];
    }
    PyMem_Free(self->slots);
    self->slots = slots;
    self->mask = size - 1;
    return 0;
}

/* Takes a slot's content out, and closes the gap: later slots that were pushed on move up. */
static void
empty_slot(Views *self, size_t gap)
{
    Slot *slots = self->slots;
    for (size_t i = (gap + 1) & self->mask; slots[i].key != NULL; i = (i + 1) & self->mask) {
        size_t home = (size_t)slots[i].hash & self->mask;
        if (((i - home) & self->mask) >= ((i - gap) & self->mask)) {
            slots[gap] = slots[i];
            gap = i;
        }
    }
    slots[gap].key = NULL;
    self->used--;
}

static int
views_assign(Views *self, PyObject *key, PyObject *view)
{
    Py_ssize_t i = find(self, key);
    if (i < 0)
        return -1;
    if (view == NULL) {
        PyErr_SetString(PyExc_TypeError, "use pop");
        return -1;
    }
    Slot *slot = &self->slots[i];
    if (slot->key != NULL) {
        Py_SETREF(slot->view, Py_NewRef(view));
        return 0;
    }
    if (3 * (self->used + 1) > 2 * (Py_ssize_t)self->mask) {
        if (resize(self, 4 * (self->mask + 1)) < 0)
            return -1;
        slot = &self->slots[find(self, key)];
    }
    slot->hash = PyObject_Hash(key);
    slot->key = Py_NewRef(key);
    slot->view = Py_NewRef(view);
    self->used++;
    return 0;
}

static PyObject *
views_get(Views *self, PyObject *key)
{
    Slot *slot = views_find(self, key);
    if (slot == NULL && PyErr_Occurred())
        return NULL;
    return Py_NewRef(slot == NULL ? Py_None : slot->view);
}

static PyObject *
views_pop(Views *self, PyObject *args)
{
    PyObject *key, *otherwise;
    if (!PyArg_ParseTuple(args, "OO", &key, &otherwise))
        return NULL;
    Slot *slot = views_find(self, key);
    if (slot == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(otherwise);
    PyObject *view = slot->view, *known = slot->key;
    empty_slot(self, (size_t)(slot - self->slots));
    Py_DECREF(known);
    return view;
}

static PyObject *
views_items(Views *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *items = PyList_New(self->used);
    Py_ssize_t at = 0;
    for (size_t i = 0; items != NULL && i <= self->mask; i++) {
        if (self->slots[i].key == NULL)
            continue;
        PyObject *item = PyTuple_Pack(2, self->slots[i].key, self->slots[i].view);
        if (item == NULL)
            Py_CLEAR(items);
        else {
            PyObject_GC_UnTrack(item); /* neither keys nor views are in cycles */
            PyList_SET_ITEM(items, at++, item);
        }
    }
    return items;
}

static PyObject *
views_clear(Views *self, PyObject *Py_UNUSED(ignored))
{
    Slot *slots = self->slots;
    size_t mask = self->mask;
    self->slots = NULL;
    self->mask = 0;
    if (resize(self, LEAST_SLOTS) < 0) {
        self->slots = slots;
        self->mask = mask;
        return NULL;
    }
    self->used = 0;
    for (size_t i = 0; slots != NULL && i <= mask; i++)
        if (slots[i].key != NULL) {
            Py_DECREF(slots[i].key);
            Py_DECREF(slots[i].view);
        }
    PyMem_Free(slots);
    Py_RETURN_NONE;
}

static Py_ssize_t
views_length(Views *self)
{
    return self->used;
}

static PyObject *
views_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    if (!PyArg_ParseTuple(args, ""))
        return NULL;
    Views *self = (Views *)type->tp_alloc(type, 0);
    if (self != NULL && resize(self, LEAST_SLOTS) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void
views_dealloc(Views *self)
{
    for (size_t i = 0; self->slots != NULL && i <= self->mask; i++) {
        Py_XDECREF(self->slots[i].key);
        if (self->slots[i].key != NULL)
            Py_DECREF(self->slots[i].view);
    }
    PyMem_Free(self->slots);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef views_methods[] = {
    {"get", (PyCFunction)views_get, METH_O, "The view of a key; None where there is none."},
    {"pop", (PyCFunction)views_pop, METH_VARARGS, "Takes the view of a key out; the second argument where there is none."},
    {"items", (PyCFunction)views_items, METH_NOARGS, "A list of all keys with their views."},
    {"clear", (PyCFunction)views_clear, METH_NOARGS, "Takes everything out."},
    {NULL, NULL, 0, NULL},
};
static PyMappingMethods views_as_mapping = {
    .mp_length = (lenfunc)views_length,
    .mp_ass_subscript = (objobjargproc)views_assign,
};

PyTypeObject Views_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "refold.speedups.Views",
    .tp_basicsize = sizeof(Views),
    .tp_new = views_new,
    .tp_dealloc = (destructor)views_dealloc,
    .tp_as_mapping = &views_as_mapping,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Views by key: what a ViewCache uses of a dict.",
    .tp_methods = views_methods,
};
